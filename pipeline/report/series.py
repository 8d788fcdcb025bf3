"""Tables of numbers from CSV files: training curves, transition curves, how a generator's training went."""

import csv
import io
import math
import statistics
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.errors import DataError

__all__ = ["Points", "Series", "mean_points", "parse_series", "read_series"]

Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Series:
    """Columns of numbers along one: an epoch or a step."""

    along: tuple[float, ...]
    columns: dict[str, tuple[float | None, ...]]  # each as long as `along`; None where there is no finite number

    def points(self, name: str, factor: float = 1.0) -> Points:
        """A column's numbers, times `factor`, where there are some; none at all where there is no such column."""
        values = self.columns.get(name, ())
        return tuple((x, y * factor) for x, y in zip(self.along, values, strict=False) if y is not None)


def mean_points(series: Iterable[Series], name: str) -> Points:
    """A column's mean over several series, at each place along them."""
    found: dict[float, list[float]] = {}
    for one in series:
        for x, y in one.points(name):
            found.setdefault(x, []).append(y)
    return tuple((x, statistics.fmean(values)) for x, values in sorted(found.items()))


def read_series(path: Path, along: str, wanted: Collection[str], stage: str) -> Series:
    """Read a file that a stage of ours wrote; columns that are not wanted are left alone, absent ones are empty.

    Raises:
        DataError: as `parse_series`; the cure is to run the stage again.
    """
    return parse_series(path.read_bytes(), str(path), along, f"run `dvc repro -f {stage}`", wanted)


def parse_series(content: bytes, where: str, along: str, cure: str, wanted: Collection[str] | None = None) -> Series:
    """Columns of a CSV file in UTF-8 with a header; an absent or empty value, an infinite one and NaN are None.

    Args:
        content: of the file.
        where: its name, for messages.
        along: the column that must have a number in every line.
        cure: what to do about a file that is not right.
        wanted: columns to read; None: all.

    Raises:
        DataError: not CSV, no column `along`, or a value that is not a number; names the file and the line.
    """
    places: list[float] = []
    columns: dict[str, list[float | None]] = {}
    for line, values in _lines(content, where, along, cure):
        place = _number(values.pop(along), line, cure)
        if place is None:
            raise DataError(f"{line}: no {along}; {cure}")
        places.append(place)
        for name, text in values.items():
            if wanted is None or name in wanted:
                columns.setdefault(name, []).append(_number(text, line, cure))
    return Series(tuple(places), {name: tuple(column) for name, column in columns.items()})


def _lines(content: bytes, where: str, along: str, cure: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Each line's place in the file and its values by the header's names; a short line ends in empty ones."""
    try:
        reader = csv.reader(io.StringIO(content.decode("utf-8"), newline=""), strict=True)
        names = next(reader, [])
        if along not in names:
            raise DataError(f"{where}: no column named {along}; {cure}")
        for values in reader:
            padded = values + [""] * (len(names) - len(values))
            if values:  # no blank line
                yield f"{where}: line {reader.line_num}", dict(zip(names, padded, strict=False))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{where}: not CSV in UTF-8 ({error}); {cure}") from error


def _number(text: str, where: str, cure: str) -> float | None:
    if not text:
        return None
    try:
        value = float(text)
    except ValueError as error:
        raise DataError(f"{where}: {text[:40]!r} is not a number; {cure}") from error
    return value if math.isfinite(value) else None
