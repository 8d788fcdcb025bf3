"""Batches from a dataset: from memory when it fits, else shard by shard, in an order that only the seed decides."""

from collections.abc import Iterator
from itertools import count

import torch
from torch import Tensor

from ..core.rng import stream
from ..optimise.network import Feed, Pool, Rows, pick
from ..shards.manifest import ShardEntry
from ..shards.reader import Dataset, Samples
from .params import Labels

__all__ = ["ShardStream", "feed_of", "fits", "pool_of"]

_MIB = 1 << 20


def fits(dataset: Dataset, memory_mb: int) -> bool:
    """Whether both splits, decoded, stay within so many MiB."""
    return dataset.decoded_bytes("train") + dataset.decoded_bytes("holdout") <= memory_mb * _MIB


def feed_of(dataset: Dataset, labels: Labels, memory_mb: int, device: torch.device) -> Feed:
    """The training split as batches whose rows hold what these labels need.

    Args:
        dataset: where the images are.
        labels: `stored` asks for a row "logits" [B, K], `hard` for "cls" [B], `live` for none.
        memory_mb: MiB of decoded samples to keep at once.
        device: where the training runs.

    Raises:
        ShardError: a shard is damaged; each is verified before its first sample is used.
    """
    if not fits(dataset, memory_mb):
        return ShardStream(dataset, labels, memory_mb * _MIB, device)
    return pool_of(dataset.load("train"), labels, device)


def pool_of(samples: Samples, labels: Labels, device: torch.device) -> Pool:
    """Samples in memory, with the rows that these labels need."""
    return Pool(samples.images, _rows(samples, labels), device)


class ShardStream:
    """A `Feed` over a training split that is too large for memory.

    Each pass visits every sample once: shards in random order, a few of them at a time in memory, the samples of those
    few in random order. Batches run on from one window to the next and from one pass to the next, so that they are all
    full; the order is a pure function of seed and position, and an epoch starts where the one before it ended.
    """

    def __init__(self, dataset: Dataset, labels: Labels, memory: int, device: torch.device) -> None:
        """Plan windows of as many shards as fit.

        Args:
            dataset: where the images are.
            labels: which rows to give, as in `feed_of`.
            memory: bytes of decoded samples; joining a window's shards takes as much again, hence half of it each.
            device: where the batches go.
        """
        self.dataset, self.device = dataset, device
        self.labels: Labels = labels
        self.entries = dataset.manifest.entries("train")
        self.samples = dataset.count("train")
        largest = max(entry.samples for entry in self.entries) * dataset.decoded_bytes("train") // self.samples
        self.shards_at_once = max(1, memory // (2 * largest))
        self._held: tuple[tuple[str, ...], Tensor, Rows] | None = None

    def batches(self, batch: int, steps: int, seed: int, epoch: int) -> Iterator[tuple[Tensor, Rows]]:
        """Batches as in `Feed`.

        Raises:
            ShardError: a shard is damaged.
        """
        pieces: list[tuple[Tensor, Rows]] = []
        missing = batch
        for images, rows, walk in self._windows(seed, epoch * steps * batch):
            while len(walk):
                chosen, walk = walk[:missing], walk[missing:]  # noqa: PLW2901 - what is left of this window
                pieces.append(pick(images, rows, chosen))
                missing -= len(chosen)
                if missing == 0:
                    yield _join(pieces)
                    pieces, missing, steps = [], batch, steps - 1
                if steps == 0:
                    return

    def _windows(self, seed: int, start: int) -> Iterator[tuple[Tensor, Rows, Tensor]]:
        """Images and rows of a window, and the order to visit them in, from position `start` of the walk on."""
        first, skip = divmod(start, self.samples)
        for index in count(first):
            plan = self._plan(seed, index)
            for number, window in enumerate(plan):
                size = sum(entry.samples for entry in window)
                if skip >= size:
                    skip -= size
                    continue
                rng = stream(seed, "distill/window", index * len(plan) + number)
                walk = torch.randperm(size, generator=rng)[skip:].to(self.device)
                yield *self._read(window), walk
                skip = 0

    def _plan(self, seed: int, index: int) -> list[list[ShardEntry]]:
        """The windows of a pass."""
        order = torch.randperm(len(self.entries), generator=stream(seed, "distill/shards", index))
        shuffled = [self.entries[int(place)] for place in order]
        return [shuffled[at : at + self.shards_at_once] for at in range(0, len(shuffled), self.shards_at_once)]

    def _read(self, window: list[ShardEntry]) -> tuple[Tensor, Rows]:
        """A window's samples; the last one is kept, since the next epoch goes on inside it."""
        names = tuple(entry.name for entry in window)
        if self._held is None or self._held[0] != names:
            self._held = None  # before the next one is read: two would exceed the budget
            parts = [self.dataset.read(entry) for entry in window]
            rows = [_rows(part, self.labels) for part in parts]
            joined = {name: torch.cat([row[name] for row in rows]).to(self.device) for name in rows[0]}
            self._held = names, torch.cat([part.images for part in parts]).to(self.device), joined
        return self._held[1:]


def _rows(samples: Samples, labels: Labels) -> Rows:
    match labels:
        case "stored":
            return {"logits": samples.logits}
        case "hard":
            return {"cls": samples.cls}
        case "live":
            return {}


def _join(pieces: list[tuple[Tensor, Rows]]) -> tuple[Tensor, Rows]:
    if len(pieces) == 1:
        return pieces[0]
    rows = {name: torch.cat([piece[1][name] for piece in pieces]) for name in pieces[0][1]}
    return torch.cat([piece[0] for piece in pieces]), rows
