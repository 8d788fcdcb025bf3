"""Small tables as CSV: the same rows give the same bytes."""

import csv
import io
from collections.abc import Mapping, Sequence

__all__ = ["csv_bytes"]


def csv_bytes(rows: Sequence[Mapping[str, object]], columns: Sequence[str] | None = None) -> bytes:
    """A header and a line per row.

    Args:
        rows: each has a value for every column.
        columns: their names; None: those of the first row.
    """
    names = list(columns if columns is not None else rows[0])
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
