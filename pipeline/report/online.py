"""Online against offline: the proxy that trained while the images were made, beside students that got them later."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.metrics import PROXY, Metrics
from pipeline.report.material import Material
from pipeline.report.rows import Row

__all__ = ["Comparison", "comparisons"]


@dataclass(frozen=True)
class Comparison:
    """One method's proxy student, and the students that were trained on the same dataset afterwards."""

    proxy: Row  # of one cell
    offline: tuple[Row, ...]  # those of the proxy's architecture first

    @property
    def method(self) -> str:
        """Which method's."""
        return self.proxy.method

    def alike(self, row: Row) -> bool:
        """Whether a student has the proxy's architecture."""
        return _arch(row) == _arch(self.proxy)

    def difference(self, row: Row) -> float | None:
        """Mean accuracy of an offline student minus the proxy's; of agreements where there is no accuracy."""
        for ours, theirs in ((row.accuracy, self.proxy.accuracy), (row.agreement, self.proxy.agreement)):
            if ours is not None and theirs is not None:
                return ours.mean - theirs.mean
        return None


def comparisons(material: Material, rows: Sequence[Row]) -> tuple[Comparison, ...]:
    """One for each proxy that was measured."""
    return tuple(_comparison(metrics, rows) for metrics in material.proxies.values())


def _comparison(metrics: Metrics, rows: Sequence[Row]) -> Comparison:
    proxy = Row(PROXY, metrics.method, "result" if metrics.data_free else "real", (metrics,))
    offline = [row for row in rows if row.method == metrics.method]
    return Comparison(proxy, tuple(sorted(offline, key=lambda row: _arch(row) != metrics.arch)))


def _arch(row: Row) -> str:
    return row.cells[0].arch
