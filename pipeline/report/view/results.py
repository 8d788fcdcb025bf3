"""The numbers to remember, the teacher, and the main table."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from pipeline.report.inputs import dataset_of
from pipeline.report.material import Material
from pipeline.report.numbers import ABSENT, count_text, duration_text, mte_text, nats_text, percent_text
from pipeline.report.rows import Row, best_result
from pipeline.report.view.styles import Styles

__all__ = ["figures", "line_of", "results", "teacher"]


def figures(material: Material, rows: Sequence[Row]) -> list[tuple[str, str, str]]:
    """The few numbers to remember: (value, unit, what it is)."""
    found: list[tuple[str, str, str]] = []
    if material.teacher.accuracy is not None:
        found.append((f"{material.teacher.accuracy * 100:.2f}", "%", f"the teacher, {material.teacher.arch}"))
    best = best_result(rows)
    if best is None:
        return found
    what = "accuracy" if best.accuracy else "agreement with the teacher"
    found.append((percent_text(best.score), "%", f"{what}, {best.student} from {best.method}"))
    real = next((row for row in rows if row.student == best.student and row.method == "real_labels"), None)
    if real is not None and real.accuracy is not None:
        found.append((percent_text(real.accuracy), "%", f"{best.student} on real labels"))
    cost = material.synthesis.get(dataset_of(best.method))
    if cost is not None:
        found.append((duration_text(cost.seconds), "", f"to make {count_text(cost.images)} images"))
    return found


def teacher(material: Material) -> dict[str, Any]:
    """What it is, and its accuracy in per cent."""
    facts = material.teacher
    percent = None if facts.accuracy is None else facts.accuracy * 100
    return {"facts": facts, "percent": percent, "accuracy": ABSENT if percent is None else f"{percent:.2f}"}


def results(rows: Sequence[Row], styles: Styles, material: Material) -> dict[str, Any]:
    """The main table: a group of lines for each student."""
    groups: list[dict[str, Any]] = []
    for student, members in groupby(rows, key=lambda row: row.student):
        lines = [line_of(row, styles[row.method]) for row in members]
        first = lines[0]["row"].cells[0]
        groups.append(
            {"student": student, "arch": first.arch, "parameters": count_text(first.parameters), "lines": lines}
        )
    places = sorted({cell.agreement_on for cell in material.cells if cell.agreement_on})
    return {
        "groups": groups,
        "has_accuracy": any(row.accuracy for row in rows),
        "has_top5": any(row.top5 for row in rows),
        "has_mte": any(row.mte for row in rows),
        "on_holdout": "holdout" in places,
        "samples": sorted({count_text(cell.samples) for cell in material.cells}),
        "chance": 100 / len(material.teacher.classes),
    }


def line_of(row: Row, style: str) -> dict[str, Any]:
    """A row's numbers as text, and its seeds as places on a line from 0 to 100."""
    score = row.score
    return {
        "row": row,
        "style": style,
        "accuracy": percent_text(row.accuracy),
        "top5": percent_text(row.top5),
        "agreement": percent_text(row.agreement),
        "kl": nats_text(row.kl),
        "mte": mte_text(row.mte),
        "dots": [round(value * 100, 2) for value in score.values] if score else [],
    }
