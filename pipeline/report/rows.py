"""The rows of the main table: one per student and method, over its seeds."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.metrics import Metrics
from pipeline.report.inputs import FEW_SHOT, Matrix
from pipeline.report.numbers import Spread, spread_of

__all__ = ["Kind", "Row", "best_result", "rows_of"]

Kind = Literal["result", "control", "real"]

_MEANING = {
    "noise": "distilled on noise",
    "real": "distilled on real images",
    "real_labels": "trained on real labels, no teacher",
}


@dataclass(frozen=True)
class Row:
    """One student trained on one dataset, over all seeds that are there."""

    student: str
    method: str
    kind: Kind  # result: data-free; control: data-free, but only there to compare with; real: not data-free
    cells: tuple[Metrics, ...]  # at least one

    @property
    def label(self) -> str:
        """The method's name, and what it is where the name says too little."""
        finished = "then a few real images of each class" if self.method.endswith(FEW_SHOT) else ""
        return _MEANING.get(self.method, finished)

    @property
    def accuracy(self) -> Spread | None:
        """Top-1 on real test data."""
        return spread_of(cell.accuracy for cell in self.cells)

    @property
    def top5(self) -> Spread | None:
        """Top-5 on real test data."""
        return spread_of(cell.top5 for cell in self.cells)

    @property
    def agreement(self) -> Spread | None:
        """With the teacher."""
        return spread_of(cell.agreement for cell in self.cells)

    @property
    def kl(self) -> Spread | None:
        """KL(teacher || student), nats."""
        return spread_of(cell.kl_to_teacher for cell in self.cells)

    @property
    def mte(self) -> Spread | None:
        """The mean transition error between student and teacher, where belief match was measured."""
        return spread_of(cell.belief.mte if cell.belief else None for cell in self.cells)

    @property
    def score(self) -> Spread | None:
        """Accuracy, or agreement where there is no real data."""
        return self.accuracy or self.agreement

    def class_accuracy(self, name: str) -> float | None:
        """Mean over the seeds."""
        spread = spread_of((cell.per_class or {}).get(name) for cell in self.cells)
        return None if spread is None else spread.mean


def rows_of(matrix: Matrix, cells: Sequence[Metrics]) -> tuple[Row, ...]:
    """Rows in the matrix's order, results before controls before rows with real data, for each student."""
    rows = [row for student in matrix.students for row in _student_rows(matrix, student, cells)]
    return tuple(rows)


def best_result(rows: Iterable[Row]) -> Row | None:
    """The data-free row with the highest mean score; None when there is none."""
    results = [row for row in rows if row.kind == "result" and row.score is not None]
    return max(results, key=_mean_score, default=None)


def _mean_score(row: Row) -> float:
    return row.score.mean if row.score else 0.0


def _student_rows(matrix: Matrix, student: str, cells: Sequence[Metrics]) -> list[Row]:
    rows: list[Row] = []
    for method in matrix.rows:
        here = tuple(cell for cell in cells if (cell.student, cell.method) == (student, method))
        if here:
            rows.append(Row(student, method, _kind(matrix, here[0]), here))
    return sorted(rows, key=lambda row: ("result", "control", "real").index(row.kind))


def _kind(matrix: Matrix, cell: Metrics) -> Kind:
    if not cell.data_free:
        return "real"
    return "result" if cell.method in matrix.methods else "control"
