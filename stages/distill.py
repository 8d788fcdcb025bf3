"""Stage `distill`: one student, trained on one dataset, from its shards alone."""

import time

from pipeline.core.errors import run_or_exit
from pipeline.distill import merge, train, write_history
from pipeline.metrics import cell_name
from pipeline.shards.reader import Dataset
from pipeline.teacher.model import Teacher
from stages.cells import read_cell
from stages.provenance import PROVENANCE, write_provenance
from stages.settings import DATA, Settings, code_of, lesson_of
from stages.workspace import workspace

__all__ = ["distill", "main"]


def distill(settings: Settings, row: str, name: str, seed: int) -> None:
    """Train one student; write it, its history and what it cost.

    Args:
        settings: the parameters.
        row: the dataset, or `<dataset>_labels` to train on the dataset's own labels without the teacher's help.
        name: the student's, in params.yaml.
        seed: the student's.

    Raises:
        PipelineError: parameters that are wrong, a damaged dataset, a training that diverges.
    """
    lesson, cell, compute = lesson_of(row), cell_name(row, name, seed), settings.compute
    own, reference = settings.mapping(f"students.{name}"), settings.mapping("reference") if lesson.true_labels else None
    arch, params = merge(settings.mapping("distill"), own, f"students.{name}", reference)
    teacher = Teacher.load(DATA / "teacher", settings.trust) if params.labels == "live" else None
    dataset = Dataset.open(DATA / "synthetic" / lesson.dataset)
    key = {
        "arch": arch,
        "params": params.model_dump(mode="json"),
        "seed": seed,
        "compute": compute.model_dump(),
        "dataset": dataset.sha256,
        "code": code_of(f"{'references' if lesson.true_labels else 'students'}/{name}"),
    }
    start = time.perf_counter()
    with workspace(f"students/{cell}", key) as work:
        student, history = train(dataset, arch, params, seed, compute, work, teacher, settings.trust)
        student.save(DATA / "students" / cell)
    write_history(history, DATA / "history" / f"{cell}.csv")
    write_provenance(
        PROVENANCE / "students" / f"{cell}.json",
        seconds=time.perf_counter() - start,
        images=params.batch * params.steps,
        workers=1,
        compute=compute,
    )


def main() -> None:
    """`python -m stages.distill METHOD STUDENT SEED`."""
    distill(Settings.read(), *read_cell("distill", __doc__))


if __name__ == "__main__":
    run_or_exit(main)
