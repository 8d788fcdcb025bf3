"""What the stages share: where things lie, slices of params.yaml as validated values, origins, costs."""

import datetime
import importlib.metadata
import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

from pydantic import Field

from pipeline.core.errors import DataError, ParamsError
from pipeline.core.files import canonical_json, write_output
from pipeline.core.params import Block, build, read_params, slice_of
from pipeline.grid import Matrix

__all__ = [
    "CODE",
    "DATA",
    "PARAMS",
    "PROVENANCE",
    "TEACHER",
    "Settings",
    "architectures",
    "code_of",
    "require_origin",
    "require_plain",
    "terms",
    "write_provenance",
]

PARAMS = Path("params.yaml")
DATA = Path("data")
CODE, TEACHER, PROVENANCE = DATA / "code", DATA / "teacher", DATA / "provenance"

_PACKAGES = ("numpy", "pillow", "webdataset")

B = TypeVar("B", bound=Block)


class _Top(Block):
    """The top-level values that are no blocks."""

    seed: Annotated[int, Field(ge=0, lt=2**31)]
    trust: tuple[Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")], ...]  # sha256 of user files whose code may run


@dataclass(frozen=True)
class Settings:
    """params.yaml; what is asked for is validated and nothing else, so that an error elsewhere stops nobody."""

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
    def matrix(self) -> Matrix:
        """The `matrix` block. With `few_shot.dataset`, it is all that dvc.yaml makes commands and paths of.

        Raises:
            ParamsError: a name that is no plain word, a seed that is no number.
        """
        few_shot = self.params.get("few_shot")
        if isinstance(few_shot, dict) and "dataset" in few_shot:
            require_plain(cast(dict[str, Any], few_shot)["dataset"], "few_shot.dataset")
        return self.block(Matrix, "matrix")

    def block(self, model: type[B], key: str) -> B:
        """The block under a dotted key, validated.

        Raises:
            ParamsError: missing, or one line per wrong key.
        """
        return build(model, self.slice(key), key)

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


def require_plain(name: object, key: str) -> None:
    """Whether a name of params.yaml may stand in `matrix`, and so in commands and paths.

    Raises:
        ParamsError: it is no plain word; the message says what is.
    """
    nowhere: dict[str, list[object]] = {field: [] for field in Matrix.model_fields}
    try:
        build(Matrix, nowhere | {"methods": [name]}, "")
    except ParamsError as error:
        raise ParamsError(str(error).replace(".methods.0", key, 1)) from error


def terms(block: dict[str, Any]) -> Iterator[str]:
    """The modules of every term that a block names under a key `terms`, at any depth."""
    for key, value in block.items():
        if key == "terms" and isinstance(value, dict):
            names = cast(dict[str, Any], value)
            yield from (f"pipeline.losses.{name}" for name, term in names.items() if term is not None)
        elif isinstance(value, dict):
            yield from terms(cast(dict[str, Any], value))


def architectures(block: dict[str, Any]) -> Iterator[str]:
    """Every architecture that a block names under a key `arch`, at any depth."""
    for key, value in block.items():
        if key == "arch" and isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            yield from architectures(cast(dict[str, Any], value))


def code_of(consumer: str) -> str:
    """The hash in a consumer's file, for work directories: state that other code left behind is never taken up.

    Empty when there is no such file (a command run by hand before `dvc repro code`).
    """
    path = CODE / consumer
    return path.read_text(encoding="utf-8").partition("\n")[0] if path.is_file() else ""


def require_origin(where: Path, claims: Mapping[str, tuple[object, object]]) -> None:
    """Hashes protect bytes; this finds the right file in the wrong place.

    Args:
        where: what lies there.
        claims: for each thing that two files say: what this one says, and what stands where it is used.

    Raises:
        DataError: they differ; the message names both.
    """
    for what, (found, wanted) in claims.items():
        if found != wanted:
            raise DataError(
                f"{where}: its {what} is {found!r}, expected {wanted!r}: it belongs elsewhere; put the right files "
                "there, or run `dvc repro`"
            )


def write_provenance(
    path: Path, *, seconds: float, images: int, workers: int, threads: int, device: str, precision: str
) -> None:
    """Write where and how long: what varies from machine to machine, beside the outputs and never in them.

    Args:
        path: below `PROVENANCE`.
        seconds: of work, summed over the workers and over resumed runs.
        images: that were made, or that were trained on.
        workers: processes that did it.
        threads: of the process that trained; bytes are promised for equal numbers.
        device: that was computed on, such as ``cpu``.
        precision: that was computed in.

    Raises:
        WorkError: the disk is full.
    """
    import torch

    record = {
        "seconds": round(seconds, 1),
        "images": images,
        "workers": workers,
        "threads": threads,
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
        "precision": precision,
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        **{name: importlib.metadata.version(name) for name in _PACKAGES},
    }
    write_output(path, canonical_json(record))


def _cpu() -> str:
    """The processor's marketing name where the system tells it, else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
