"""Samples as tensors, what their values must be, and the counts that a manifest states about them."""

from typing import NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.core.errors import ShardError

__all__ = ["Arrays", "Samples", "Tally", "check_values", "to_samples"]

_SUM_TOLERANCE = 1e-3
_ONE = 0x3C00  # 1.0 in float16; the bit patterns 0..ONE are exactly the values in [0, 1]


class Samples(NamedTuple):
    """Samples of one split or shard, in the order they are stored."""

    images: Tensor  # [N, C, H, W] uint8 (png) or float16 in [0, 1] (npy)
    logits: Tensor  # [N, K] float32, the teacher's raw answer to the stored image
    cls: Tensor  # [N] int64, argmax of what the method steered to (for real data: the true label)
    targets: Tensor | None  # [N, K] float32, what the method steered to; None when not stored


class Arrays(NamedTuple):
    """The same before it is believed."""

    images: NDArray[np.uint8 | np.float16]
    logits: NDArray[np.float32]
    cls: NDArray[np.int64]
    targets: NDArray[np.float32] | None


def to_samples(arrays: Arrays) -> Samples:
    """Arrays as tensors that share their memory."""
    targets = None if arrays.targets is None else torch.from_numpy(arrays.targets)  # pyright: ignore[reportUnknownMemberType]
    images, logits, cls = (torch.from_numpy(array) for array in arrays[:3])  # pyright: ignore
    return Samples(images, logits, cls, targets)


def check_values(arrays: Arrays, keys: str, where: str) -> None:
    """Refuse numbers that no writer of ours stores.

    Args:
        arrays: decoded, of the right shapes.
        keys: what the samples' keys begin with; a sample's number follows in five digits.
        where: the shard, for messages.

    Raises:
        ShardError: names the first sample that is wrong.
    """
    images, logits, cls, targets = arrays

    def demand(good: NDArray[np.bool_], member: str, what: str) -> None:
        if not good.all():
            first = int(good.reshape(len(cls), -1).all(1).argmin())
            raise ShardError(f"{where}: {keys}{first:05d}.{member}: {what}")

    if images.dtype == np.float16:
        demand(images.view(np.uint16) <= _ONE, "npy", "values outside [0, 1] or not finite")
    demand(np.isfinite(logits), "logits.npy", "values that are not finite")
    if targets is not None:
        sums = np.abs(targets.sum(1, dtype=np.float64) - 1) <= _SUM_TOLERANCE
        demand((targets >= 0) & sums[:, None], "target.npy", "not a distribution: numbers >= 0 that sum to 1")
        demand(targets[np.arange(len(cls)), cls] == targets.max(1), "cls", "not the largest entry of the target")


class Tally:
    """Counts the train samples' labels and how often the teacher agrees with them, shard by shard."""

    def __init__(self, classes: int) -> None:
        """Begin with nothing."""
        self.histogram: list[int] = [0] * classes
        self.agreed = 0

    def add(self, logits: Tensor, cls: Tensor) -> None:
        """Count one shard: logits [N, K], cls [N]."""
        counts = cast(list[int], torch.bincount(cls, minlength=len(self.histogram)).tolist())
        self.histogram = [before + count for before, count in zip(self.histogram, counts, strict=True)]
        self.agreed += int((logits.argmax(dim=1) == cls).sum())

    @property
    def agreement(self) -> float:
        """Share of samples with argmax(logits) == cls, 0..1."""
        return self.agreed / sum(self.histogram)
