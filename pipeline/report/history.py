"""Training curves: the rows of `data/history/<cell>.csv`."""

import csv
import math
from pathlib import Path
from typing import NamedTuple

from pipeline.core.errors import DataError

__all__ = ["HistoryRow", "read_history"]


class HistoryRow(NamedTuple):
    """One epoch."""

    epoch: float
    loss: float | None
    holdout_agreement: float | None


def read_history(path: Path) -> tuple[HistoryRow, ...]:
    """Read the columns that are drawn; others are left alone, an absent or empty value is None.

    Raises:
        DataError: no epoch column, or a value that is not a number; the message names the file and the line.
    """
    rows: list[HistoryRow] = []
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if "epoch" not in (reader.fieldnames or ()):
            raise DataError(f"{path}: no column named epoch; run `dvc repro -f distill`")
        for line in reader:
            where = f"{path}: line {reader.line_num}"
            epoch = _number(line.get("epoch"), where)
            if epoch is None:
                raise DataError(f"{where}: no epoch; run `dvc repro -f distill`")
            rows.append(
                HistoryRow(epoch, _number(line.get("loss"), where), _number(line.get("holdout_agreement"), where))
            )
    return tuple(rows)


def _number(text: str | None, where: str) -> float | None:
    if not text:
        return None
    try:
        value = float(text)
    except ValueError as error:
        raise DataError(f"{where}: {text!r} is not a number; run `dvc repro -f distill`") from error
    return value if math.isfinite(value) else None
