"""Synthesis methods, one file each; the file's name is the registry.

A method is a frozen `Block` whose fields are its params block. `fit` looks at the teacher and returns a source;
the source draws batches. A method never sees counts, shard sizes, encodings or normalisation.
"""

import importlib
import pkgutil
from collections.abc import Sequence
from typing import Protocol, cast, runtime_checkable

import torch

from pipeline.core.checkpoint import Checkpoint
from pipeline.core.device import Compute
from pipeline.core.errors import ParamsError
from pipeline.core.params import Block
from pipeline.synthesis.batch import Attachment, Batch
from pipeline.teacher.model import Teacher

__all__ = ["Attachment", "Batch", "Fitted", "Method", "Source", "load", "names", "needing_batch_norm"]


class Source(Protocol):
    """What a fitted method draws from. Pure: the same arguments give the same batch, and shards are independent."""

    def draw(self, count: int, rng: torch.Generator, index: int) -> Batch:
        """Make the images of one shard.

        Args:
            count: how many; the same for every shard of a dataset.
            rng: the shard's own random numbers.
            index: the shard's number, 0, 1, 2 ... for training shards and -1, -2 ... for held-out ones. Only a
                source that hands out a finite stock (real images, generator snapshots) needs it.
        """
        ...


@runtime_checkable
class Fitted(Source, Protocol):
    """A source whose fit trained something that is worth keeping."""

    def attachments(self) -> Sequence[Attachment]:
        """What the fit leaves, in an order of its own (rounds, say); equal fits give equal bytes."""
        ...


class Method(Protocol):
    """A validated params block that can be fitted to a teacher."""

    data_free: bool  # class attribute; False only for references that read real data
    soft_targets: bool  # class attribute; True where the steered-to distribution is worth storing beside the image
    batch_norm: bool  # class attribute; True where the teacher must have BatchNorm layers
    attaches: bool  # class attribute; whether its source is `Fitted`
    reads: tuple[str, ...]  # class attribute; top-level params blocks that become fields beside the method's own

    def fit(self, teacher: Teacher, rng: torch.Generator, checkpoint: Checkpoint, compute: Compute) -> Source:
        """Prepare a source for this teacher; long fits resume from `checkpoint`."""
        ...


def names() -> tuple[str, ...]:
    """Every method's name: the files in this folder."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def load(name: str) -> type[Block]:
    """The method class of a file in this folder: a `Block` that follows the `Method` protocol.

    Raises:
        ParamsError: there is no such file.
    """
    if name not in names():
        raise ParamsError(f"methods.{name}: no such method; there are {', '.join(names())}")
    return cast(type[Block], importlib.import_module(f"{__name__}.{name}").Method)


def needing_batch_norm(teacher: str) -> str:
    """What to say when a method that matches BatchNorm statistics meets a teacher that keeps none."""
    kinds = {name: cast(Method, load(name)) for name in names()}
    others = ", ".join(name for name, kind in kinds.items() if kind.data_free and not kind.batch_norm)
    return f"{teacher} has no BatchNorm layers, whose statistics this method matches; {others} need none"
