"""Geometry of the small plots; the template draws it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from .read import Points

__all__ = ["LARGE", "SMALL", "Chart", "Curve", "Frame", "Line", "Tick", "chart", "ticks"]

_POINTS = 240  # per line, at most
_LOG_FROM = 20.0  # largest over smallest value that asks for a logarithmic axis

Curve = tuple[str, str, Points]  # what it is, class names of its style, (epoch or step, value)


class Frame(NamedTuple):
    """A drawing's size and the edges of the plot inside, in user units; the page scales it to its column."""

    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float


LARGE, SMALL = Frame(360, 210, 44, 352, 10, 182), Frame(200, 150, 38, 192, 10, 122)


class Tick(NamedTuple):
    """A mark on an axis, or a level that a plot is read against."""

    at: float  # user units
    text: str


class Line(NamedTuple):
    """A curve."""

    path: str  # SVG polyline points
    style: str  # class names
    name: str


@dataclass(frozen=True)
class Chart:
    """One small plot."""

    title: str  # what the vertical axis shows
    by: str  # what the horizontal one does
    lines: tuple[Line, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    level: Tick | None
    frame: Frame

    @property
    def legend(self) -> tuple[tuple[str, str], ...]:
        """Each name and style once."""
        return tuple(dict.fromkeys((line.name, line.style) for line in self.lines))


def chart(
    title: str,
    curves: Sequence[Curve],
    low: float | None = None,
    high: float | None = None,
    *,
    by: str = "epoch",
    frame: Frame = LARGE,
    level: tuple[float, str] | None = None,
) -> Chart | None:
    """A plot of curves; None when there is nothing to draw.

    Args:
        title: what the vertical axis shows.
        curves: those without a point are left out.
        low: the axis begins here at the latest.
        high: the axis ends here at the earliest.
        by: what the horizontal axis shows.
        frame: the size.
        level: a value that the curves are read against, and its name; the axis should include it.
    """
    drawn = [(name, style, _thinned(points)) for name, style, points in curves if points]
    if not drawn:
        return None
    xs = [x for _, _, points in drawn for x, _ in points]
    ys = [y for _, _, points in drawn for _, y in points]
    logarithmic = low is None and min(ys) > 0 and max(ys) / min(ys) > _LOG_FROM
    x_axis = _Axis(min(xs), max(xs), frame.left, frame.right, logarithmic=False)
    y_low = min(ys) if low is None else min(low, *ys)
    y_axis = _Axis(y_low, max(ys) if high is None else max(high, *ys), frame.bottom, frame.top, logarithmic)
    return Chart(
        title=f"{title}, logarithmic" if logarithmic else title,
        by=by,
        lines=tuple(Line(_path(points, x_axis, y_axis), style, name) for name, style, points in drawn),
        x_ticks=tuple(tick for tick in x_axis.ticks(5) if "." not in tick.text),  # there is no half epoch or step
        y_ticks=y_axis.ticks(5),
        level=None if level is None else Tick(round(y_axis.at(level[0]), 1), level[1]),
        frame=frame,
    )


def ticks(low: float, high: float, about: int) -> tuple[float, ...]:
    """Round values between `low` and `high`, steps of 1, 2 or 5 times a power of ten."""
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return tuple(round(index * step, 12) for index in range(first, last + 1))


class _Axis:
    """Values between two ends to user units."""

    def __init__(self, low: float, high: float, start: float, end: float, logarithmic: bool) -> None:
        if low == high:
            low, high = low - (abs(low) or 1.0) * 0.5, high + (abs(high) or 1.0) * 0.5
        self.low, self.high, self.start, self.end, self.logarithmic = low, high, start, end, logarithmic

    def at(self, value: float) -> float:
        scale = math.log10 if self.logarithmic else float
        share = (scale(value) - scale(self.low)) / (scale(self.high) - scale(self.low))
        return self.start + share * (self.end - self.start)

    def ticks(self, about: int) -> tuple[Tick, ...]:
        return tuple(Tick(round(self.at(value), 1), f"{value:g}") for value in self._values(about))

    def _values(self, about: int) -> tuple[float, ...]:
        if not self.logarithmic:
            return ticks(self.low, self.high, about)
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        decades = math.log10(self.high / self.low)
        factors = (1,) if decades > 3 else (1, 3) if decades > 1.5 else (1, 2, 5)
        values = (factor * 10.0**power for power in powers for factor in factors)
        return tuple(value for value in values if self.low <= value <= self.high)


def _thinned(points: Points) -> Points:
    """Every n-th point, the last one always."""
    step = math.ceil(len(points) / _POINTS)
    return tuple(point for index, point in enumerate(points) if index % step == 0 or index == len(points) - 1)


def _path(points: Points, x_axis: _Axis, y_axis: _Axis) -> str:
    return " ".join(f"{x_axis.at(x):.1f},{y_axis.at(y):.1f}" for x, y in points)
