"""The accuracy of each class."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from pipeline.metrics import class_labels
from pipeline.report.drawing import short_label
from pipeline.report.material import Material
from pipeline.report.numbers import spread_of
from pipeline.report.rows import Row

__all__ = ["classes"]

_NAMED = 40  # classes; of more, the hardest are shown
_HARDEST = 20


def classes(material: Material, rows: Sequence[Row]) -> dict[str, Any] | None:
    """A column for each row of the main table, a line for each class; None where nothing was measured."""
    measured = [row for row in rows if any(cell.per_class for cell in row.cells)]
    if not measured:
        return None
    table = [(name, [row.class_accuracy(name) for row in measured]) for name in class_labels(material.teacher.classes)]
    everything = len(table) <= _NAMED
    if not everything:
        table = sorted(table, key=_lowest)[:_HARDEST]
    groups = [(student, list(members)) for student, members in groupby(measured, key=lambda row: row.student)]
    lines = [(name, short_label(name, 20), values) for name, values in table]
    return {"groups": groups, "rows": measured, "lines": lines, "all": everything}


def _lowest(line: tuple[str, list[float | None]]) -> float:
    spread = spread_of(line[1])
    return 2.0 if spread is None else spread.mean
