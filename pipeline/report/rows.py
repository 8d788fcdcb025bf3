"""The rows of the tables: one student of one row of the grid, over its seeds; spreads, and numbers as text."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..grid import ROLES, Matrix, Role, Row
from ..measure.metrics import Metrics
from .read import Material

__all__ = ["ABSENT", "Comparison", "Scores", "Spread", "best_result", "comparisons", "scores_of", "spread_of"]

ABSENT = "\N{EN DASH}"  # where there is no number


@dataclass(frozen=True)
class Spread:
    """Values of several seeds."""

    values: tuple[float, ...]

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


@dataclass(frozen=True)
class Scores:
    """What was measured of one student of one row, over all seeds that are there."""

    student: str
    row: Row
    cells: tuple[Metrics, ...]  # at least one

    @property
    def method(self) -> str:
        """The row's name."""
        return self.row.name

    @property
    def arch(self) -> str:
        """The student's architecture."""
        return self.cells[0].arch

    @property
    def role(self) -> Role:
        """Whether this is a result, or something to compare with."""
        return self.row.role(self.cells[0].data_free)

    def of(self, name: str) -> Spread | None:
        """A number of `Metrics` over the seeds, by its name there."""
        return spread_of(getattr(cell, name) for cell in self.cells)

    @property
    def main(self) -> Spread | None:
        """Accuracy, or agreement where there is no real data."""
        return self.of("accuracy") or self.of("agreement")

    def class_accuracy(self, name: str) -> float | None:
        """Of one class, mean over the seeds."""
        spread = spread_of((cell.per_class or {}).get(name) for cell in self.cells)
        return None if spread is None else spread.mean


def scores_of(matrix: Matrix, cells: Sequence[Metrics]) -> tuple[Scores, ...]:
    """In the matrix's order, for each student results before controls before what is not data-free."""
    found: list[Scores] = []
    for student in matrix.students:
        here = [(row, tuple(c for c in cells if (c.student, c.method) == (student, row.name))) for row in matrix.rows]
        present = [Scores(student, row, members) for row, members in here if members]
        found += sorted(present, key=lambda scores: ROLES.index(scores.role))
    return tuple(found)


def best_result(rows: Iterable[Scores]) -> Scores | None:
    """The data-free one with the highest mean; None when there is none."""
    results = [(row.main.mean, row) for row in rows if row.role == "result" and row.main is not None]
    return max(results, key=lambda pair: pair[0], default=(0.0, None))[1]


@dataclass(frozen=True)
class Comparison:
    """A proxy, which trained while the images were made, and the students that got the same dataset afterwards."""

    proxy: Scores  # of one cell
    offline: tuple[Scores, ...]  # those of the proxy's architecture first

    def alike(self, row: Scores) -> bool:
        """Whether a student has the proxy's architecture."""
        return row.arch == self.proxy.arch

    def difference(self, row: Scores) -> float | None:
        """Mean accuracy of an offline student minus the proxy's; of agreements where there is no accuracy."""
        for name in ("accuracy", "agreement"):
            ours, theirs = row.of(name), self.proxy.of(name)
            if ours is not None and theirs is not None:
                return ours.mean - theirs.mean
        return None


def comparisons(material: Material, rows: Sequence[Scores]) -> tuple[Comparison, ...]:
    """One for each proxy that was measured."""
    found: list[Comparison] = []
    for metrics in material.proxies.values():
        proxy = Scores(metrics.student, Row.parse(metrics.method), (metrics,))
        offline = [row for row in rows if row.row == proxy.row]
        found.append(Comparison(proxy, tuple(sorted(offline, key=lambda row: row.arch != metrics.arch))))
    return tuple(found)


def percent_text(spread: Spread | None) -> str:
    """A share in per cent, such as ``96.21 ± 0.31``; without the sign, which stands in the table's head."""
    return _spread_text(spread, 100, 2)


def number_text(spread: Spread | None) -> str:
    """A divergence in nats or a transition error, such as ``0.142 ± 0.010``."""
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
