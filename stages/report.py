"""Stage `report`: every number and picture on one page, in `data/report`."""

from pipeline.core.errors import TeacherError, run_or_exit
from pipeline.core.params import build
from pipeline.grid import Matrix
from pipeline.methods.zskd import class_similarity
from pipeline.report import ReportInputs, ReportParams, build_report
from pipeline.teacher.model import Teacher
from stages.settings import DATA, Settings

__all__ = ["main"]


def main() -> None:
    """`python -m stages.report`."""
    settings = Settings.read()
    teacher = Teacher.load(DATA / "teacher", settings.trust)
    try:
        similarity = class_similarity(teacher.head.weight).numpy()
    except TeacherError:  # it does not end in a linear layer: there is no such matrix
        similarity = None
    inputs = ReportInputs(
        params=build(ReportParams, settings.slice("report"), "report"),
        matrix=build(Matrix, settings.slice("matrix"), "matrix"),
        teacher=teacher.info,
        similarity=similarity,
        data=DATA,
    )
    build_report(inputs, DATA / "report")


if __name__ == "__main__":
    run_or_exit(main)
