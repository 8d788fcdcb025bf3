"""Synthesis methods, one file each; the file's name is the registry.

A method is a frozen `Block` whose fields are its params block. `fit` looks at the teacher and returns a source;
the source draws batches. A method never sees counts, shards, encodings or normalisation.
"""

import importlib
import pkgutil
from typing import NamedTuple, Protocol, cast

import torch
from torch import Tensor

from pipeline.core.checkpoint import Checkpoint
from pipeline.core.device import Compute
from pipeline.core.errors import ParamsError
from pipeline.teacher.model import Teacher

__all__ = ["Batch", "Method", "Source", "load", "names"]


class Batch(NamedTuple):
    """What a source draws."""

    images: Tensor  # [N, C, H, W] float32 in [0, 1], not normalised
    targets: Tensor  # [N, K] float32, rows sum to 1: the label distribution each image was steered towards


class Source(Protocol):
    """What a fitted method draws from. Pure: the same rng gives the same batch, and shards are independent."""

    def draw(self, count: int, rng: torch.Generator) -> Batch:
        """Make `count` images with their targets."""
        ...


class Method(Protocol):
    """A validated params block that can be fitted to a teacher."""

    data_free: bool  # class attribute; False only for references that read real data
    soft_targets: bool  # class attribute; True where the steered-to distribution is worth storing beside the image

    def fit(self, teacher: Teacher, rng: torch.Generator, checkpoint: Checkpoint, compute: Compute) -> Source:
        """Prepare a source for this teacher; long fits resume from `checkpoint`."""
        ...


def names() -> tuple[str, ...]:
    """Every method's name: the files in this folder."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def load(name: str) -> type[Method]:
    """The method class of a file in this folder.

    Raises:
        ParamsError: there is no such file.
    """
    if name not in names():
        raise ParamsError(f"methods.{name}: no such method; there are {', '.join(names())}")
    return cast(type[Method], importlib.import_module(f"{__name__}.{name}").Method)
