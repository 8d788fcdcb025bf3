"""The report: every number and picture of one run in one page that needs no network, and the same as text and JSON."""

from pathlib import Path

from ..core.errors import DataError
from ..core.files import canonical_json, write_atomic
from ..measure.metrics import class_labels
from .page import page
from .pictures import sheet_png, similarity_png
from .read import ReportInputs, ReportParams, read_material
from .rows import scores_of
from .text import headline, markdown, results_csv, summary

__all__ = ["ReportInputs", "ReportParams", "build_report"]


def build_report(inputs: ReportInputs, out: Path) -> None:
    """Read what the matrix names and write the report; equal inputs give equal bytes.

    Files: `index.html` (self-contained, no script, no network; written last), `report.md`, `summary.json`,
    `results.csv`, `pictures/<dataset>.png`, and `similarity.png` where the teacher has a linear head.

    Args:
        inputs: what to show and where it is. What the matrix names and the disk has not is listed in the report.
        out: a folder; created when it is not there.

    Raises:
        DataError: an input that is not what it should be, or a similarity matrix of another size.
        ShardError: a dataset is damaged.
        WorkError: the disk is full.
    """
    labels, similarity = class_labels(inputs.teacher.classes), inputs.similarity
    if similarity is not None and similarity.shape != (len(labels), len(labels)):
        raise DataError(f"the similarity matrix is {similarity.shape}, the teacher has {len(labels)} classes")
    material = read_material(inputs)
    rows = scores_of(inputs.matrix, material.cells)
    opening = headline(material, rows)
    (out / "pictures").mkdir(parents=True, exist_ok=True)
    for name, facts in material.datasets.items():
        write_atomic(out / "pictures" / f"{name}.png", sheet_png(facts.pictures, labels))
    if similarity is not None:
        write_atomic(out / "similarity.png", similarity_png(similarity, inputs.teacher.classes))
    write_atomic(out / "results.csv", results_csv(material.cells))
    write_atomic(out / "summary.json", canonical_json(summary(material, rows)))
    write_atomic(out / "report.md", markdown(inputs.params.title, material, rows, opening))
    write_atomic(out / "index.html", page(inputs, material, rows, opening))
