"""Stages `distill`, `reference` and `few_shot`: one student, trained on one dataset, from its shards alone."""

import torch

from pipeline.classifier import Student, StudentCard, Teacher, TeacherCard
from pipeline.core.device import Compute
from pipeline.core.errors import run_or_exit
from pipeline.core.files import sweep
from pipeline.core.work import WorkDirectory, work_root
from pipeline.distill import DistillParams, FewShot, few_shot_of, finish, merge, train, write_history
from pipeline.grid import Cell, Row, path_of
from pipeline.shards.reader import Dataset
from stages import arguments
from stages.settings import DATA, PROVENANCE, TEACHER, Settings, code_of, require_origin, write_provenance

__all__ = ["distill", "main"]


def distill(settings: Settings, cell: Cell) -> None:
    """Train one student; write it, its history and what it cost.

    Args:
        settings: the parameters.
        cell: which student, from which seed, and what it learns from: a dataset with its teacher's help; its true
            labels alone; or, in the end, a few real images, where the dataset's own student is there to be finished.

    Raises:
        PipelineError: parameters that are wrong, a dataset that is damaged or another, a training that diverges.
    """
    compute = settings.block(Compute, "compute")
    arch, params, few = _read(settings, cell)
    teacher = Teacher.load(TEACHER, TeacherCard, settings.trust) if params.labels == "live" else None
    name = cell.row.dataset if few is None else few.dataset
    dataset = Dataset.open(DATA / path_of("synthetic", name))
    require_origin(dataset.folder, {"method": (dataset.manifest.method, name)})
    key = {
        "arch": arch,
        "params": params.model_dump(mode="json"),
        "seed": cell.seed,
        "compute": compute.model_dump(),
        "dataset": dataset.sha256,
        "code": code_of(f"{cell.row.consumer}/{cell.student}"),
    }
    start = None if few is None else _start(settings, cell)
    if few is not None and start is not None:
        key |= {"start": start.card.sha256, "per_class": few.per_class}
    with WorkDirectory(work_root(), f"students/{cell.name}", key) as work:
        state = work.checkpoint("student")
        if few is None or start is None:
            made = train(dataset, arch, params, cell.seed, compute, state, teacher, settings.trust)
        else:
            made = finish(start, dataset, few.per_class, params, compute, state, teacher)
        student, history = made
        seconds = state.seconds()
        folder, curve = DATA / path_of("students", cell.name), DATA / path_of("history", cell.name)
        sweep(folder)
        student.card = student.card.model_copy(update={"cell": cell.name})
        student.save(folder)
        work.discard()
    write_history(history, curve)
    write_provenance(
        PROVENANCE / "students" / f"{cell.name}.json",
        seconds=seconds,
        images=params.batch * params.steps,
        workers=1,
        threads=torch.get_num_threads(),
        device=compute.torch_device().type,
        precision=compute.precision,
    )


def _read(settings: Settings, cell: Cell) -> tuple[str, DistillParams, FewShot | None]:
    """The student's architecture, the parameters of this row and, where it ends on real images, which."""
    few, last, key = None, None, "reference"
    if cell.row.true_labels:
        last = settings.mapping("reference")
    if cell.row.few_shot:
        key = "few_shot"
        few, last = few_shot_of(settings.mapping("few_shot"))
    own = settings.mapping(f"students.{cell.student}")
    return *merge(settings.mapping("distill"), own, f"students.{cell.student}", last, key), few


def _start(settings: Settings, cell: Cell) -> Student:
    """The student that is finished on real images."""
    name = cell._replace(row=Row(cell.row.dataset)).name
    folder = DATA / path_of("students", name)
    student = Student.load(folder, StudentCard, settings.trust, frozen=False)
    require_origin(folder, {"cell": (student.card.cell, name)})
    return student


def main() -> None:
    """`python -m stages.distill METHOD STUDENT SEED`."""
    given = arguments("distill")
    distill(Settings.read(), Cell.parse(given.row, given.student, given.seed))


if __name__ == "__main__":
    run_or_exit(main)
