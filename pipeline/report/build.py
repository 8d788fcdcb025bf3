"""Write the report: the page, the same as text, numbers for other programs, and the pictures as files."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pipeline.core.errors import DataError
from pipeline.core.files import canonical_json, write_atomic
from pipeline.metrics import class_labels
from pipeline.report.headline import headline
from pipeline.report.inputs import ReportInputs
from pipeline.report.markdown import markdown
from pipeline.report.material import read_material
from pipeline.report.pictures import sheet_png
from pipeline.report.rows import rows_of
from pipeline.report.similarity import similarity_png
from pipeline.report.tables import results_csv, summary
from pipeline.report.view import view

__all__ = ["build_report"]

_HERE = Path(__file__).parent


def build_report(inputs: ReportInputs, out: Path) -> None:
    """Read what the matrix names and write the report; equal inputs give equal bytes.

    Files: `index.html` (self-contained, no script, no network; written last), `report.md`, `summary.json`,
    `results.csv`, `pictures/<dataset>.png`, and `similarity.png` where the teacher has a linear head.

    Args:
        inputs: what to show and where it is. What the matrix names and the disk has not is listed in the report.
        out: a folder; created when it is not there.

    Raises:
        DataError: no teacher, an input that is not what it should be, or a similarity matrix of another size.
        ShardError: a dataset is damaged.
        WorkError: the disk is full.
    """
    material = read_material(inputs)
    labels = class_labels(material.teacher.classes)
    if inputs.similarity is not None and inputs.similarity.shape != (len(labels), len(labels)):
        raise DataError(f"the similarity matrix is {inputs.similarity.shape}, the teacher has {len(labels)} classes")
    rows = rows_of(inputs.matrix, material.cells)
    opening = headline(material, rows)
    (out / "pictures").mkdir(parents=True, exist_ok=True)
    for name, facts in material.datasets.items():
        write_atomic(out / "pictures" / f"{name}.png", sheet_png(facts.pictures, labels))
    if inputs.similarity is not None:
        write_atomic(out / "similarity.png", similarity_png(inputs.similarity, material.teacher.classes))
    write_atomic(out / "results.csv", results_csv(material.cells))
    write_atomic(out / "summary.json", canonical_json(summary(material, rows)))
    write_atomic(out / "report.md", markdown(inputs.params.title, material, rows, opening))
    write_atomic(out / "index.html", _page(view(inputs, material, rows, opening)))


def _page(content: dict[str, Any]) -> bytes:
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("page.html.j2").render(content).encode()
