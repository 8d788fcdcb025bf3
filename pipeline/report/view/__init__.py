"""What the page's template is given: plain values, ready to be set, a module for each section."""

from typing import Any

from pipeline.report.headline import Headline
from pipeline.report.inputs import ReportInputs
from pipeline.report.material import Material
from pipeline.report.rows import Row
from pipeline.report.view.beliefs import beliefs
from pipeline.report.view.classes import classes
from pipeline.report.view.costs import costs, environment
from pipeline.report.view.details import datasets
from pipeline.report.view.generators import generators
from pipeline.report.view.online import online
from pipeline.report.view.pictures import pictures, similarity
from pipeline.report.view.results import figures, results, teacher
from pipeline.report.view.styles import shaded, styles
from pipeline.report.view.training import training

__all__ = ["view"]


def view(inputs: ReportInputs, material: Material, rows: tuple[Row, ...], opening: Headline) -> dict[str, Any]:
    """Everything the template sets, by section."""
    lines = styles(inputs.matrix, rows)
    return {
        "title": inputs.params.title,
        "opening": opening,
        "figures": figures(material, rows),
        "missing": material.missing,
        "teacher": teacher(material),
        "results": results(rows, lines, material),
        "notes": sorted({cell.note for cell in material.cells if cell.note}),
        "online": online(material, rows, lines),
        "pictures": pictures(material),
        "similarity": similarity(inputs, material),
        "beliefs": beliefs(material, rows, shaded(inputs.matrix, rows)),
        "generators": generators(material, lines),
        "training": training(rows, material, lines),
        "classes": classes(material, rows),
        "costs": costs(material),
        "seeds": rows,
        "datasets": datasets(material),
        "matrix": inputs.matrix,
        "environment": environment(material),
    }
