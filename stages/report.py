"""Stage `report`: every number and picture on one page, in `data/report`."""

from pipeline.classifier import Teacher, TeacherCard
from pipeline.core.errors import TeacherError, run_or_exit
from pipeline.core.files import sweep
from pipeline.grid import Matrix, path_of
from pipeline.nets.probe import class_similarity
from pipeline.report import ReportInputs, ReportParams, build_report
from pipeline.shards.manifest import MANIFEST, read_manifest
from stages.settings import DATA, TEACHER, Settings, require_origin

__all__ = ["main"]


def main() -> None:
    """`python -m stages.report`."""
    settings = Settings.read()
    matrix = settings.matrix
    teacher = Teacher.load(TEACHER, TeacherCard, settings.trust)
    _require_origins(matrix, teacher.card)
    try:
        similarity = class_similarity(teacher.head.weight).numpy()
    except TeacherError:  # it does not end in a linear layer: there is no such matrix
        similarity = None
    inputs = ReportInputs(
        params=settings.block(ReportParams, "report"),
        matrix=matrix,
        teacher=teacher.card,
        similarity=similarity,
        data=DATA,
    )
    sweep(DATA / "report")
    build_report(inputs, DATA / "report")


def _require_origins(matrix: Matrix, teacher: TeacherCard) -> None:
    """Datasets lie where their names say, and are of this teacher; of measurements the report itself looks."""
    for name in matrix.datasets:
        folder = DATA / path_of("synthetic", name)
        if (folder / MANIFEST).exists():
            manifest = read_manifest(folder)
            claims = {"method": (manifest.method, name), "teacher's sha256": (manifest.teacher.sha256, teacher.sha256)}
            require_origin(folder, claims)


if __name__ == "__main__":
    run_or_exit(main)
