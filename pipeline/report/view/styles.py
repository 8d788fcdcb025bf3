"""How the page tells rows apart: the same line in every table, legend and plot."""

from collections.abc import Sequence

from pipeline.report.inputs import Matrix
from pipeline.report.rows import Row

__all__ = ["UNKNOWN", "Styles", "coloured", "shaded", "styles"]

Styles = dict[str, str]  # by method: class names of the style sheet

UNKNOWN = "line other"  # what no row is named after

_PALETTE = 6  # colours in the style sheet
_DASHES = 4  # dash patterns there
_SHADES = 4  # greys there


def coloured(index: int) -> str:
    """The colours in turn."""
    return f"line s{index % _PALETTE}"


def styles(matrix: Matrix, rows: Sequence[Row]) -> Styles:
    """A colour for each data-free method, a grey dash pattern for each row that is only there to compare with."""
    results, others = _parted(matrix, rows)
    return _colours(results) | {method: f"line other d{index % _DASHES}" for index, method in enumerate(others)}


def shaded(matrix: Matrix, rows: Sequence[Row]) -> Styles:
    """The same where dashes mean something else: the rows to compare with have shades of grey."""
    results, others = _parted(matrix, rows)
    return _colours(results) | {method: f"line g{index % _SHADES}" for index, method in enumerate(others)}


def _parted(matrix: Matrix, rows: Sequence[Row]) -> tuple[list[str], list[str]]:
    results = {row.method for row in rows if row.kind == "result"}
    return [name for name in matrix.rows if name in results], [name for name in matrix.rows if name not in results]


def _colours(methods: Sequence[str]) -> Styles:
    return {method: coloured(index) for index, method in enumerate(methods)}
