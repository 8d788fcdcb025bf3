"""The students' training curves."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from pipeline.report.charts import Curve, chart
from pipeline.report.material import Material
from pipeline.report.rows import Row
from pipeline.report.view.styles import Styles

__all__ = ["training"]


def training(rows: Sequence[Row], material: Material, styles: Styles) -> list[dict[str, Any]]:
    """A panel for each student: loss and held-out agreement, a line for each seed."""
    panels: list[dict[str, Any]] = []
    for student, members in groupby(rows, key=lambda row: row.student):
        cells = [(row.method, cell) for row in members for cell in row.cells if cell.cell in material.histories]
        losses: list[Curve] = []
        agreements: list[Curve] = []
        for method, cell in cells:
            history, name = material.histories[cell.cell], f"{method}, seed {cell.seed}"
            losses.append((name, styles[method], history.points("loss")))
            agreements.append((name, styles[method], history.points("holdout_agreement", 100)))
        charts = [
            chart("training loss", losses),
            chart("agreement on held-out images, %", agreements, low=0.0, high=100.0),
        ]
        present = [one for one in charts if one is not None]
        if present:
            legend = list(dict.fromkeys((method, styles[method]) for method, _ in cells))
            panels.append({"student": student, "charts": present, "legend": legend})
    return panels
