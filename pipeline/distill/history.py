"""history.csv: one line per epoch, as `dvc plots` and the report read it."""

import csv
import io
from pathlib import Path

from pipeline.core.files import write_atomic
from pipeline.training import Row

__all__ = ["write_history"]


def write_history(rows: list[Row], path: Path) -> None:
    """Write the rows that `train` returned; the same rows give the same bytes.

    Raises:
        WorkError: the disk is full.
    """
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]) if rows else ["epoch"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, text.getvalue().encode())
