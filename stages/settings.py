"""What the stages share: where things lie, and how a slice of params.yaml becomes validated values."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, cast

from pydantic import Field

from pipeline.core.device import Compute
from pipeline.core.errors import ParamsError
from pipeline.core.params import Block, build, read_params, slice_of
from pipeline.grid import Row

__all__ = ["CODE", "DATA", "PARAMS", "Lesson", "Settings", "code_of", "lesson_of"]

PARAMS = Path("params.yaml")
DATA = Path("data")
CODE = DATA / "code"
Lesson, lesson_of = Row, Row.parse  # shim


class _Top(Block):
    """The top-level values that are no blocks."""

    seed: Annotated[int, Field(ge=0, lt=2**31)]
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
