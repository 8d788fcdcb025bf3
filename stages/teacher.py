"""Stage `teacher`: whatever the `teacher` block describes becomes `data/teacher`."""

from pipeline import real, sources
from pipeline.core.device import Compute
from pipeline.core.errors import run_or_exit
from pipeline.core.files import sweep
from pipeline.core.work import WorkDirectory, work_root
from stages.settings import TEACHER, Settings, code_of

__all__ = ["main"]


def main() -> None:
    """`python -m stages.teacher`."""
    settings = Settings.read()
    data = real.parse(settings.slice("data"))
    params = sources.parse(settings.slice("teacher"))
    seed, trust, compute = settings.seed, settings.trust, settings.block(Compute, "compute")
    found = sources.Data.read(params, data)
    key = {
        "teacher": params.model_dump(),
        "data": found.digest(),
        "trust": trust,
        "seed": seed,
        "compute": compute.model_dump(),
        "code": code_of("teacher"),
    }
    with WorkDirectory(work_root(), "teacher", key) as work:
        teacher = sources.make_teacher(params, found, trust, compute, seed, work.checkpoint("teacher"))
        sweep(TEACHER)
        teacher.save(TEACHER)
        work.discard()


if __name__ == "__main__":
    run_or_exit(main)
