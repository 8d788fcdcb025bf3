"""Stages `distill`, `reference` and `few_shot`: one student, trained on one dataset, from its shards alone."""

import time

from pipeline.core.errors import run_or_exit
from pipeline.distill import DistillParams, FewShot, Student, few_shot_of, finish, merge, train, write_history
from pipeline.metrics import cell_name
from pipeline.shards.reader import Dataset
from pipeline.teacher.model import Teacher
from stages.cells import read_cell
from stages.provenance import PROVENANCE, write_provenance
from stages.settings import DATA, Lesson, Settings, code_of, lesson_of
from stages.workspace import workspace

__all__ = ["distill", "main"]


def distill(settings: Settings, row: str, name: str, seed: int) -> None:
    """Train one student; write it, its history and what it cost.

    Args:
        settings: the parameters.
        row: the dataset; `<dataset>_labels` to train on its own labels without the teacher's help;
            `<dataset>_few_shot` to finish the dataset's student, which is there, on a few real images.
        name: the student's, in params.yaml.
        seed: the student's.

    Raises:
        PipelineError: parameters that are wrong, a damaged dataset, a training that diverges.
    """
    lesson, cell, compute = lesson_of(row), cell_name(row, name, seed), settings.compute
    arch, params, few = _read(settings, lesson, name)
    teacher = Teacher.load(DATA / "teacher", settings.trust) if params.labels == "live" else None
    dataset = Dataset.open(DATA / "synthetic" / (lesson.dataset if few is None else few.dataset))
    key = {
        "arch": arch,
        "params": params.model_dump(mode="json"),
        "seed": seed,
        "compute": compute.model_dump(),
        "dataset": dataset.sha256,
        "code": code_of(f"{lesson.consumer}/{name}"),
    }
    start = time.perf_counter()
    if few is None:
        with workspace(f"students/{cell}", key) as work:
            student, history = train(dataset, arch, params, seed, compute, work, teacher, settings.trust)
            student.save(DATA / "students" / cell)
    else:
        student = Student.load(DATA / "students" / cell_name(lesson.dataset, name, seed), settings.trust)
        key |= {"start": student.info.sha256, "per_class": few.per_class}
        with workspace(f"students/{cell}", key) as work:
            student, history = finish(student, dataset, few.per_class, params, compute, work, teacher)
            student.save(DATA / "students" / cell)
    write_history(history, DATA / "history" / f"{cell}.csv")
    write_provenance(
        PROVENANCE / "students" / f"{cell}.json",
        seconds=time.perf_counter() - start,
        images=params.batch * params.steps,
        workers=1,
        compute=compute,
    )


def _read(settings: Settings, lesson: Lesson, name: str) -> tuple[str, DistillParams, FewShot | None]:
    """The student's architecture, the parameters of this lesson and, where it ends on real images, which."""
    few, last, key = None, None, "reference"
    if lesson.true_labels:
        last = settings.mapping("reference")
    if lesson.few_shot:
        key = "few_shot"
        few, last = few_shot_of(settings.mapping("few_shot"))
    own = settings.mapping(f"students.{name}")
    return *merge(settings.mapping("distill"), own, f"students.{name}", last, key), few


def main() -> None:
    """`python -m stages.distill METHOD STUDENT SEED`."""
    distill(Settings.read(), *read_cell("distill", __doc__))


if __name__ == "__main__":
    run_or_exit(main)
