"""What the report is asked to show, and where its inputs are."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from numpy import float64
from numpy.typing import NDArray
from pydantic import Field

from pipeline.core.params import Block

__all__ = ["FEW_SHOT", "Matrix", "ReportInputs", "ReportParams", "dataset_of"]

_LABELS = "_labels"  # ends the name of a row whose students learned the dataset's own labels, without the teacher
FEW_SHOT = "_few_shot"  # and of one whose students were finished on a few real images


def dataset_of(method: str) -> str:
    """The dataset that a row's students were trained on: `real_labels` has none of its own and takes that of `real`."""
    return method.removesuffix(_LABELS).removesuffix(FEW_SHOT)


class ReportParams(Block):
    """The `report` block."""

    title: str
    impressions_per_class: Annotated[int, Field(gt=0, le=32)]  # pictures of each class and dataset


class Matrix(Block):
    """The `matrix` block: which cells exist."""

    methods: tuple[str, ...]
    references: tuple[str, ...]  # methods whose rows are there to compare with
    few_shot: tuple[str, ...]  # methods whose students are finished on a few real images
    students: tuple[str, ...]
    seeds: tuple[int, ...]
    proxies: tuple[str, ...]  # methods whose proxy student is measured too

    @property
    def rows(self) -> tuple[str, ...]:
        """Methods, then references, each once."""
        return tuple(dict.fromkeys((*self.methods, *self.references)))

    @property
    def datasets(self) -> tuple[str, ...]:
        """The datasets behind the rows."""
        return tuple(dict.fromkeys(dataset_of(method) for method in self.rows))


@dataclass(frozen=True)
class ReportInputs:
    """The report's parameters and the places of its inputs."""

    params: ReportParams
    matrix: Matrix
    teacher: Path  # teacher.json
    similarity: NDArray[float64] | None  # [K, K], see `class_similarity`; None for a teacher without a linear head
    data: Path  # the folder with metrics/, belief/, history/, provenance/ and synthetic/
