"""Transition curves: what student and teacher believe along the same steps from one class to another."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from pipeline.metrics import Belief
from pipeline.report.charts import Chart, Curve, chart
from pipeline.report.material import Material
from pipeline.report.numbers import count_text
from pipeline.report.online import comparisons
from pipeline.report.rows import Row
from pipeline.report.series import mean_points
from pipeline.report.view.styles import UNKNOWN, Styles

__all__ = ["beliefs"]


def beliefs(material: Material, rows: Sequence[Row], styles: Styles) -> dict[str, Any] | None:
    """A panel for each student, and one for the proxies; None where belief match was not measured.

    `styles` have no dashes, which tell the teacher from the student here.
    """
    students = [(student, list(members)) for student, members in groupby(rows, key=lambda row: row.student)]
    groups = [*students, ("Proxy students, trained online", [one.proxy for one in comparisons(material, rows)])]
    panels = [_panel(title, members, material, styles) for title, members in groups]
    present = [panel for panel in panels if panel["charts"]]
    measured = [cell.belief for cell in (*material.cells, *material.proxies.values()) if cell.belief is not None]
    return {"panels": present, "settings": _settings(measured, material)} if present else None


def _panel(title: str, rows: Sequence[Row], material: Material, styles: Styles) -> dict[str, Any]:
    drawn = [row for row in rows if any(cell.cell in material.beliefs for cell in row.cells)]
    results = [row for row in drawn if row.kind == "result"]
    others = [row for row in drawn if row.kind != "result"]
    charts = [
        _chart("data-free students", results, material, styles),
        _chart("to compare with", others, material, styles),
    ]
    legend = [(row.method, styles.get(row.method, UNKNOWN)) for row in drawn]
    return {"title": title, "charts": [one for one in charts if one is not None], "legend": legend}


def _chart(which: str, rows: Sequence[Row], material: Material, styles: Styles) -> Chart | None:
    curves: list[Curve] = []
    for row in rows:
        found = [material.beliefs[cell.cell] for cell in row.cells if cell.cell in material.beliefs]
        style = styles.get(row.method, UNKNOWN)
        curves += [
            (f"{row.method}, student", style, mean_points(found, "student")),
            (f"{row.method}, teacher", f"{style} dashed", mean_points(found, "teacher")),
        ]
    return chart(f"{which}: belief in the new class", curves, low=0.0, high=1.0, by="step")


def _settings(measured: Sequence[Belief], material: Material) -> dict[str, str]:
    return {
        "images": _range([one.images for one in measured]),
        "steps": _range([one.steps for one in measured]),
        "size": " or ".join(f"{size:g}" for size in sorted({one.step_size for one in measured})),
        "stepped": " or ".join(sorted({one.stepped for one in measured})),
        "targets": count_text(len(material.teacher.classes) - 1),
    }


def _range(values: Sequence[int]) -> str:
    low, high = count_text(min(values)), count_text(max(values))
    return low if low == high else f"{low} to {high}"
