"""Stage `teacher`: whatever the `teacher` block describes becomes `data/teacher`."""

from pipeline import datasets
from pipeline.core.errors import run_or_exit
from pipeline.teacher.sources import make_teacher, parse
from stages.settings import DATA, Settings, code_of
from stages.workspace import workspace

__all__ = ["main"]


def main() -> None:
    """`python -m stages.teacher`."""
    settings = Settings.read()
    data = datasets.parse(settings.slice("data"))
    params = parse(settings.slice("teacher"))
    seed, trust, compute = settings.seed, settings.trust, settings.compute
    key = {
        "teacher": params.model_dump(),
        "data": data.model_dump(),
        "seed": seed,
        "compute": compute.model_dump(),
        "code": code_of("teacher"),
    }
    with workspace("teacher", key) as folder:
        make_teacher(params, data, trust, compute, seed, folder).save(DATA / "teacher")


if __name__ == "__main__":
    run_or_exit(main)
