"""The numbers for other programs: `summary.json` for `dvc metrics`, `results.csv` for `dvc plots`."""

import csv
import io
from typing import Any

from pipeline.metrics import Metrics
from pipeline.report.material import Material
from pipeline.report.numbers import Spread
from pipeline.report.online import comparisons
from pipeline.report.rows import Row

__all__ = ["results_csv", "summary"]

_NAMES: tuple[str, ...] = ("cell", "method", "student", "seed", "data_free")
_COLUMNS: tuple[str, ...] = (*_NAMES, "accuracy", "agreement", "kl_to_teacher", "mte")


def summary(material: Material, rows: tuple[Row, ...]) -> dict[str, Any]:
    """Numbers by method and student, the proxies among them, and the teacher's accuracy.

    Absent ones are left out: `dvc metrics` shows gaps.
    """
    table: dict[str, Any] = {
        "teacher": _present({"accuracy": material.teacher.accuracy}),
        "missing": len(material.missing),
    }
    for row in rows:
        table.setdefault(row.method, {})[row.student] = _numbers(row)
    for one in comparisons(material, rows):
        apart = {row.student: one.difference(row) for row in one.offline}
        numbers = _numbers(one.proxy) | {"offline_minus_online": _present(apart)}
        table.setdefault(one.method, {})[one.proxy.student] = numbers
    return table


def results_csv(cells: tuple[Metrics, ...]) -> bytes:
    """One line per cell; an empty field where there is no number."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(cell.model_dump() | {"mte": cell.belief.mte if cell.belief else None} for cell in cells)
    return text.getvalue().encode()


def _numbers(row: Row) -> dict[str, Any]:
    numbers: dict[str, float | None] = {"n": len(row.cells)}
    spreads = {"accuracy": row.accuracy, "top5": row.top5, "agreement": row.agreement, "kl": row.kl, "mte": row.mte}
    for name, spread in spreads.items():
        numbers |= _mean_and_std(name, spread)
    return _present(numbers)


def _mean_and_std(name: str, spread: Spread | None) -> dict[str, float | None]:
    return {} if spread is None else {f"{name}_mean": spread.mean, f"{name}_std": spread.std}


def _present(numbers: dict[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in numbers.items() if value is not None}
