"""Stage `teacher`: whatever the `teacher` block describes becomes `data/teacher`."""

from pipeline import datasets
from pipeline.core.device import Compute
from pipeline.core.errors import run_or_exit
from pipeline.core.files import sweep
from pipeline.core.work import WorkDirectory, work_root
from pipeline.teacher.sources import make_teacher, parse
from stages.settings import TEACHER, Settings, code_of

__all__ = ["main"]


def main() -> None:
    """`python -m stages.teacher`."""
    settings = Settings.read()
    data = datasets.parse(settings.slice("data"))
    params = parse(settings.slice("teacher"))
    seed, trust, compute = settings.seed, settings.trust, settings.block(Compute, "compute")
    key = {
        "teacher": params.model_dump(),
        "data": data.model_dump(),
        "seed": seed,
        "compute": compute.model_dump(),
        "code": code_of("teacher"),
    }
    with WorkDirectory(work_root(), "teacher", key) as work:
        teacher = make_teacher(params, data, trust, compute, seed, work.path)
        sweep(TEACHER)
        teacher.save(TEACHER)
        work.discard()


if __name__ == "__main__":
    run_or_exit(main)
