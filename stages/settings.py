"""What the stages share: where things lie, and how a slice of params.yaml becomes validated values."""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, NamedTuple, cast

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from pipeline.core.device import Compute
from pipeline.core.errors import ParamsError
from pipeline.core.params import Block, build, read_params, slice_of

__all__ = ["CODE", "DATA", "PARAMS", "Lesson", "Matrix", "Settings", "code_of", "lesson_of"]

PARAMS = Path("params.yaml")
DATA = Path("data")
CODE = DATA / "code"
_TRUE_LABELS = "_labels"  # `real_labels`: students trained on the labels of `real`, without the teacher
_FEW_SHOT = "_few_shot"  # `zskd_few_shot`: students of `zskd`, finished on a few real images


_NAME = re.compile(r"[a-z0-9][a-z0-9_]{0,63}")


def _plain(name: str) -> str:
    """DVC writes names into commands, which a shell runs, and into paths: they are words and nothing else."""
    if not _NAME.fullmatch(name):
        raise PydanticCustomError("name", "use small letters, digits and underscores, 64 at most")
    return name


Name = Annotated[str, AfterValidator(_plain)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


class Matrix(Block):
    """The `matrix` block: which cells exist."""

    methods: tuple[Name, ...]
    references: tuple[Name, ...]  # methods whose students are trained on the true labels, too
    few_shot: tuple[Name, ...]  # methods whose students are finished on a few real images
    students: tuple[Name, ...]
    seeds: tuple[Seed, ...]
    proxies: tuple[Name, ...]  # methods whose proxy student is measured too


class _Source(Block):
    dataset: Name


class _Top(Block):
    """The top-level values that are no blocks."""

    seed: Seed
    trust: tuple[Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")], ...]  # sha256 of user files whose code may run


@dataclass(frozen=True)
class Settings:
    """params.yaml; each property validates what it gives and nothing else, so that an error elsewhere stops nobody."""

    params: dict[str, Any]

    @classmethod
    def read(cls, path: Path = PARAMS) -> "Settings":
        """Read the parameter file.

        Raises:
            ParamsError: not there, or not YAML 1.2.
        """
        return cls(read_params(path))

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self._top.seed

    @property
    def trust(self) -> tuple[str, ...]:
        """sha256 of the user's Python files whose code may run."""
        return self._top.trust

    @property
    def compute(self) -> Compute:
        """The `compute` block."""
        return build(Compute, self.slice("compute"), "compute")

    @property
    def matrix(self) -> Matrix:
        """The `matrix` block. With `few_shot.dataset`, it is all that dvc.yaml makes commands and paths of.

        Raises:
            ParamsError: a name that is no plain word, a seed that is no number.
        """
        few_shot = self.params.get("few_shot")
        if isinstance(few_shot, dict) and "dataset" in few_shot:
            build(_Source, {"dataset": cast(dict[str, Any], few_shot)["dataset"]}, "few_shot")
        return build(Matrix, self.slice("matrix"), "matrix")

    def slice(self, key: str) -> Any:
        """Plain data under a dotted key.

        Raises:
            ParamsError: the key is missing; the message lists what is there.
        """
        return slice_of(self.params, key)

    def mapping(self, key: str) -> dict[str, Any]:
        """A copy of the mapping under a dotted key.

        Raises:
            ParamsError: the key is missing, or holds something else.
        """
        value = self.slice(key)
        if not isinstance(value, dict):
            raise ParamsError(f"{key}: {value!r}: expected a mapping")
        return dict(cast(dict[str, Any], value))

    @cached_property
    def _top(self) -> _Top:
        values = {key: self.slice(key) for key in ("seed", "trust")}
        try:
            return build(_Top, values, "")
        except ParamsError as error:
            raise ParamsError(str(error).replace("\n.", "\n").removeprefix(".")) from error


def code_of(consumer: str) -> str:
    """The hash in a consumer's file, for work directories: state that other code left behind is never taken up.

    Empty when there is no such file (a command run by hand before `dvc repro code`).
    """
    path = CODE / consumer
    return path.read_text(encoding="utf-8").partition("\n")[0] if path.is_file() else ""


class Lesson(NamedTuple):
    """What the students of one row of the report learn from."""

    dataset: str
    true_labels: bool  # the dataset's own labels, as in ordinary training, instead of the teacher's answers
    few_shot: bool  # whether a few real images come last

    @property
    def consumer(self) -> str:
        """The folder below `data/code` with the students' files."""
        return "few_shot" if self.few_shot else "references" if self.true_labels else "students"


def lesson_of(row: str) -> Lesson:
    """A row's name is its dataset's, followed by ``_labels`` for true labels or ``_few_shot`` for a last step."""
    dataset = row.removesuffix(_TRUE_LABELS).removesuffix(_FEW_SHOT)
    return Lesson(dataset, row.endswith(_TRUE_LABELS), row.endswith(_FEW_SHOT))
