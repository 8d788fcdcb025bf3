"""Stage `report`: every number and picture on one page, in `data/report`."""

from pipeline.core.errors import TeacherError, run_or_exit
from pipeline.core.params import build
from pipeline.report import Matrix, ReportInputs, ReportParams, build_report, class_similarity
from pipeline.teacher.model import Teacher
from stages.settings import DATA, Settings

__all__ = ["main", "rows"]

_CONTROL = "noise"  # data-free, but there to be compared with


def main() -> None:
    """`python -m stages.report`."""
    settings = Settings.read()
    teacher = Teacher.load(DATA / "teacher", settings.trust)
    try:
        similarity = class_similarity(teacher.head.weight.numpy())
    except TeacherError:  # it does not end in a linear layer: there is no such matrix
        similarity = None
    inputs = ReportInputs(
        params=build(ReportParams, settings.slice("report"), "report"),
        matrix=rows(build(Matrix, settings.matrix.model_dump(), "matrix")),
        teacher=DATA / "teacher" / "card.json",
        similarity=similarity,
        data=DATA,
    )
    build_report(inputs, DATA / "report")


def rows(matrix: Matrix) -> Matrix:
    """The report's rows: results, then what they are compared with, also students that saw real images in the end."""
    results = tuple(name for name in matrix.methods if name != _CONTROL)
    control = tuple(name for name in matrix.methods if name == _CONTROL)
    true_labels = tuple(f"{name}_labels" for name in matrix.references)
    finished = tuple(f"{name}_few_shot" for name in matrix.few_shot)
    return matrix.model_copy(update={"methods": results, "references": (*control, *true_labels, *finished)})


if __name__ == "__main__":
    run_or_exit(main)
