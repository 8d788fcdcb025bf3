"""Stage `report`: every number and picture on one page, in `data/report`."""

from pipeline import report as old  # shim: the report will take the matrix of `pipeline.grid`, and the teacher's card
from pipeline.classifier import Teacher, TeacherCard
from pipeline.core.errors import TeacherError, run_or_exit
from pipeline.core.files import sweep
from pipeline.grid import Matrix, path_of
from pipeline.metrics import read_metrics
from pipeline.report import ReportInputs, ReportParams, build_report, class_similarity
from pipeline.shards.schema import MANIFEST, read_manifest
from stages.settings import DATA, TEACHER, Settings, require_origin

__all__ = ["main"]


def main() -> None:
    """`python -m stages.report`."""
    settings = Settings.read()
    matrix = settings.matrix
    teacher = Teacher.load(TEACHER, TeacherCard, settings.trust)
    _require_origins(matrix, teacher.card)
    try:
        similarity = class_similarity(teacher.head.weight.numpy())
    except TeacherError:  # it does not end in a linear layer: there is no such matrix
        similarity = None
    rows = tuple(row.name for row in matrix.rows)
    results = tuple(row for row in rows if row in matrix.methods and row != "noise")
    inputs = ReportInputs(
        params=settings.block(ReportParams, "report"),
        matrix=old.Matrix(
            **matrix.model_dump(exclude={"methods", "references"}),
            methods=results,
            references=tuple(row for row in rows if row not in results),
        ),
        teacher=TEACHER / "card.json",
        similarity=similarity,
        data=DATA,
    )
    sweep(DATA / "report")
    build_report(inputs, DATA / "report")


def _require_origins(matrix: Matrix, teacher: TeacherCard) -> None:
    """Datasets and measurements lie where their names say, and are of this teacher."""
    for name in matrix.datasets:
        folder = DATA / path_of("synthetic", name)
        if (folder / MANIFEST).exists():
            manifest = read_manifest(folder)
            claims = {"method": (manifest.method, name), "teacher's sha256": (manifest.teacher.sha256, teacher.sha256)}
            require_origin(folder, claims)
    for cell in (*matrix.cells, *matrix.proxy_cells):
        path = DATA / path_of("metrics", cell.name)
        if path.exists():
            require_origin(path, {"cell": (read_metrics(path).cell, cell.name)})


if __name__ == "__main__":
    run_or_exit(main)
