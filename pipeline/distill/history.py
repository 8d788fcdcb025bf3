"""history.csv: one line per epoch, as `dvc plots` and the report read it."""

from pathlib import Path

from pipeline.core.files import write_atomic
from pipeline.core.table import csv_bytes
from pipeline.training import Row

__all__ = ["write_history"]


def write_history(rows: list[Row], path: Path) -> None:
    """Write the rows that `train` returned; the same rows give the same bytes.

    Raises:
        WorkError: the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, csv_bytes(rows, None if rows else ["epoch"]))
