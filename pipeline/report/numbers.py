"""Means with their spread, and numbers as a reader wants to see them."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = [
    "ABSENT",
    "Spread",
    "bytes_text",
    "count_text",
    "duration_text",
    "mte_text",
    "nats_text",
    "percent_text",
    "points_text",
    "rate_text",
    "spread_of",
]

ABSENT = "\N{EN DASH}"  # where there is no number


@dataclass(frozen=True)
class Spread:
    """Values of several seeds."""

    values: tuple[float, ...]

    @property
    def n(self) -> int:
        """How many."""
        return len(self.values)

    @property
    def mean(self) -> float:
        """Their mean."""
        return statistics.fmean(self.values)

    @property
    def std(self) -> float | None:
        """The sample standard deviation (n - 1 in the denominator); one value has none."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None


def spread_of(values: Iterable[float | None]) -> Spread | None:
    """The values that are there; None when there are none."""
    present = tuple(value for value in values if value is not None)
    return Spread(present) if present else None


def percent_text(spread: Spread | None) -> str:
    """A share in per cent, such as ``96.21 ± 0.31``; without the sign, which stands in the table's head."""
    return _spread_text(spread, 100, 2)


def nats_text(spread: Spread | None) -> str:
    """A divergence in nats, such as ``0.142 ± 0.010``."""
    return _spread_text(spread, 1, 3)


def mte_text(spread: Spread | None) -> str:
    """A mean transition error, between 0 and 1, such as ``0.057 ± 0.004``."""
    return _spread_text(spread, 1, 3)


def points_text(difference: float | None) -> str:
    """A difference of shares in points, always with a sign, such as ``+1.20``."""
    if difference is None:
        return ABSENT
    points = f"{difference * 100:+.2f}".replace("-", "\N{MINUS SIGN}")
    return "0.00" if points[1:] == "0.00" else points


def count_text(count: float) -> str:
    """``24,000``; one decimal below 100 unless whole."""
    return f"{count:,.0f}" if count >= 100 or count == int(count) else f"{count:.1f}"


def duration_text(seconds: float) -> str:
    """``0.8 s``, ``48 s``, ``3 min 20 s`` or ``2 h 5 min``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def rate_text(images: int, seconds: float) -> str:
    """Images per second, whatever the images were made or seen for."""
    return count_text(images / seconds) if seconds > 0 else ABSENT


def bytes_text(size: int) -> str:
    """``812 kB`` or ``17.3 MB``, in powers of ten."""
    value, units = float(size), ["B", "kB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.1f} {units[0]}" if value < 100 and units[0] != "B" else f"{value:.0f} {units[0]}"


def _spread_text(spread: Spread | None, factor: float, digits: int) -> str:
    if spread is None:
        return ABSENT
    mean = f"{spread.mean * factor:.{digits}f}"
    return mean if spread.std is None else f"{mean} ± {spread.std * factor:.{digits}f}"
