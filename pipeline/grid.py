"""Datasets x students x seeds: which cells there are, what they and their files are called, what each row is for.

The only place that knows. A *row* is a dataset and a kind of labels, a *cell* is one student of a row; the names of
both stand in file names, in the names of DVC's stages and on the command line.
"""

import re
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import AfterValidator, Field

from .core.params import Block, build

__all__ = ["CONTROL", "PROXY", "REAL", "ROLES", "Cell", "Folder", "Labels", "Matrix", "Role", "Row", "path_of"]

CONTROL = "noise"  # the dataset that is data-free, but only there to compare with
REAL = "real"  # the dataset of real images
PROXY = "proxy"  # the name of every student that trained while its dataset's images were made

Role = Literal["result", "control", "reference"]  # data-free; data-free, but only to compare with; not data-free
ROLES: tuple[Role, ...] = ("result", "control", "reference")  # in the order of tables

Labels = Literal["teacher", "true", "few_shot"]  # the teacher's; the dataset's own; the teacher's, then of real images
_SUFFIX: dict[Labels, str] = {"teacher": "", "true": "_labels", "few_shot": "_few_shot"}
_CONSUMER: dict[Labels, str] = {"teacher": "students", "true": "references", "few_shot": "few_shot"}

Folder = Literal["students", "metrics", "belief", "history", "provenance/students", "synthetic", "provenance/synthetic"]
_ENDING: dict[Folder, str] = {"students": "", "synthetic": "", "belief": ".csv", "history": ".csv"}


class Row(NamedTuple):
    """What students of one row of the tables learn from."""

    dataset: str
    labels: Labels = "teacher"

    @classmethod
    def parse(cls, name: str) -> "Row":
        """The row of a name such as ``zskd``, ``real_labels`` or ``zskd_few_shot``."""
        for labels in ("true", "few_shot"):
            if name.endswith(_SUFFIX[labels]):
                return cls(name.removesuffix(_SUFFIX[labels]), labels)
        return cls(name)

    @property
    def name(self) -> str:
        """What `parse` reads."""
        return f"{self.dataset}{_SUFFIX[self.labels]}"

    @property
    def true_labels(self) -> bool:
        """Whether the dataset's own labels are learned, as in ordinary training, instead of the teacher's answers."""
        return self.labels == "true"

    @property
    def few_shot(self) -> bool:
        """Whether a few real images come last."""
        return self.labels == "few_shot"

    @property
    def consumer(self) -> str:
        """The folder below ``data/code`` with the files of its students' code."""
        return _CONSUMER[self.labels]

    @property
    def meaning(self) -> str:
        """What it is, in words, where its name says too little; otherwise empty."""
        if self.labels != "teacher":
            few = "then a few real images of each class"
            return few if self.few_shot else "trained on real labels, no teacher"
        return {CONTROL: "distilled on noise", REAL: "distilled on real images"}.get(self.dataset, "")

    def role(self, data_free: bool) -> Role:
        """What its students are there for; `data_free`: whether they never saw a real image."""
        if not data_free:
            return "reference"
        return "control" if self.dataset == CONTROL else "result"


class Cell(NamedTuple):
    """One student: trained on what, from which seed."""

    row: Row
    student: str  # its name in params.yaml; `PROXY` for the one that the dataset brings along
    seed: int  # a proxy's is that of its dataset, and no part of the name

    @classmethod
    def parse(cls, row: str, student: str, seed: int) -> "Cell":
        """The cell of names that somebody gave, whether or not `matrix` has it.

        Raises:
            ParamsError: they cannot stand in a path.
        """
        found = cls(Row.parse(row), student, seed)
        build(_Given, {"dataset": found.row.dataset, "student": student, "seed": seed}, "cell")
        return found

    @property
    def online(self) -> bool:
        """Whether it trained while the images were made, and not from the shards."""
        return self.student == PROXY

    @property
    def name(self) -> str:
        """Such as ``zskd-small-0``, or ``zskt-proxy``."""
        return "-".join([self.row.name, self.student, *([] if self.online else [str(self.seed)])])


def path_of(folder: Folder, name: str) -> Path:
    """The file or folder of a cell, or of a dataset, below the data folder."""
    return Path(folder, f"{name}{_ENDING.get(folder, '.json')}")


def _plain(name: str) -> str:
    if not _PLAIN.fullmatch(name):
        raise ValueError("expected small letters, digits and underscores, 64 at most")
    return name


def _unambiguous(name: str) -> str:
    row = Row.parse(name)
    if row.labels != "teacher":
        raise ValueError(f"{_SUFFIX[row.labels]} ends the names of {row.dataset!r}'s own students; rename it")
    return name


# Nothing else may stand in `matrix`: its values become the names of files and of DVC's stages.
_PLAIN = re.compile(r"[a-z0-9][a-z0-9_]{0,63}")
_Name = Annotated[str, AfterValidator(_plain)]
_Dataset = Annotated[_Name, AfterValidator(_unambiguous)]
_Seed = Annotated[int, Field(ge=0, lt=2**31)]


class _Given(Block):
    """The names of one cell."""

    dataset: _Name
    student: _Name
    seed: _Seed


class Matrix(Block):
    """The `matrix` block: which cells exist."""

    methods: tuple[_Dataset, ...]  # the datasets
    references: tuple[_Dataset, ...]  # datasets whose students are also trained on the true labels
    few_shot: tuple[_Dataset, ...]  # datasets whose students are finished on a few real images
    students: tuple[_Name, ...]
    seeds: tuple[_Seed, ...]
    proxies: tuple[_Dataset, ...]  # datasets whose proxy student is measured too

    @property
    def rows(self) -> tuple[Row, ...]:
        """Each once: datasets, the control after the others, then those that are only there to compare with."""
        distilled = sorted(self.methods, key=lambda name: name == CONTROL)
        extra = [*(Row(name, "true") for name in self.references), *(Row(name, "few_shot") for name in self.few_shot)]
        return tuple(dict.fromkeys([*map(Row, distilled), *extra]))

    @property
    def datasets(self) -> tuple[str, ...]:
        """The datasets behind the rows."""
        return tuple(dict.fromkeys(row.dataset for row in self.rows))

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Every student that is trained from shards, by student, row and seed."""
        return tuple(Cell(row, name, seed) for name in self.students for row in self.rows for seed in self.seeds)

    @property
    def proxy_cells(self) -> tuple[Cell, ...]:
        """Every proxy student that is measured; the seed is not known here."""
        return tuple(Cell(Row(name), PROXY, 0) for name in self.proxies)
