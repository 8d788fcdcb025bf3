"""Geometry of the training curves; the template draws it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["HEIGHT", "WIDTH", "Chart", "Line", "Tick", "chart", "ticks"]

WIDTH, HEIGHT = 360, 210  # user units; the page scales the drawing to its column
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 8, 10, 28
_POINTS = 240  # per line, at most
_LOG_FROM = 20.0  # largest over smallest value that asks for a logarithmic axis

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Tick:
    """A mark on an axis."""

    at: float  # user units
    text: str


@dataclass(frozen=True)
class Line:
    """One run's curve."""

    path: str  # SVG polyline points
    style: str  # class names
    name: str


@dataclass(frozen=True)
class Chart:
    """One small plot."""

    title: str
    lines: tuple[Line, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    left: float = _LEFT
    right: float = WIDTH - _RIGHT
    top: float = _TOP
    bottom: float = HEIGHT - _BOTTOM


def chart(
    title: str, curves: Sequence[tuple[str, str, Points]], low: float | None = None, high: float | None = None
) -> Chart | None:
    """A plot of (name, style, points) curves; None when there is nothing to draw.

    Args:
        title: what the vertical axis shows.
        curves: points are (epoch, value).
        low: the axis begins here at the latest.
        high: the axis ends here at the earliest.
    """
    drawn = [(name, style, _thinned(points)) for name, style, points in curves if points]
    if not drawn:
        return None
    xs = [x for _, _, points in drawn for x, _ in points]
    ys = [y for _, _, points in drawn for _, y in points]
    logarithmic = low is None and min(ys) > 0 and max(ys) / min(ys) > _LOG_FROM
    x_axis = _Axis(min(xs), max(xs), _LEFT, WIDTH - _RIGHT, logarithmic=False)
    y_low = min(ys) if low is None else min(low, *ys)
    y_axis = _Axis(y_low, max(ys) if high is None else max(high, *ys), HEIGHT - _BOTTOM, _TOP, logarithmic)
    return Chart(
        title=f"{title}, logarithmic" if logarithmic else title,
        lines=tuple(Line(_path(points, x_axis, y_axis), style, name) for name, style, points in drawn),
        x_ticks=x_axis.ticks(5),
        y_ticks=y_axis.ticks(5),
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
    return [point for index, point in enumerate(points) if index % step == 0 or index == len(points) - 1]


def _path(points: Points, x_axis: _Axis, y_axis: _Axis) -> str:
    return " ".join(f"{x_axis.at(x):.1f},{y_axis.at(y):.1f}" for x, y in points)
