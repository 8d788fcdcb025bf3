"""Which shards make a dataset: full shards, numbered per split, so that a larger dataset only has more numbers."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.core.errors import ParamsError
from pipeline.shards.schema import Split, shard_name

__all__ = ["ShardPlan", "plan", "select"]


@dataclass(frozen=True)
class ShardPlan:
    """One shard to make. Its content depends on (seed, method, split, index) and its size, never on the total."""

    split: Split
    index: int
    samples: int

    @property
    def name(self) -> str:
        """The shard's file name, such as ``train-00000.tar``."""
        return shard_name(self.split, self.index)

    @property
    def number(self) -> int:
        """The shard's number for a source: 0, 1, 2, ... in train; -1, -2, ... in holdout."""
        return self.index if self.split == "train" else -1 - self.index


def plan(count: int, size: int, holdout: int, key: str = "count") -> tuple[ShardPlan, ...]:
    """List the shards of a dataset: train first, then holdout.

    Args:
        count: training samples, a positive multiple of `size`: a short last shard would have to be made anew when
            the dataset grows.
        size: samples per shard.
        holdout: held-out samples, a multiple of `size`; 0 for none.
        key: the full name of the `count` parameter, for messages.

    Raises:
        ParamsError: a number that is not a multiple; the message gives the nearest ones.
    """
    if size < 1:
        raise ParamsError(f"shards.size: {size}: expected at least 1 sample per shard")
    _whole(key, count, size, least=size)
    _whole("shards.holdout", holdout, size, least=0)
    train = tuple(ShardPlan("train", index, size) for index in range(count // size))
    return train + tuple(ShardPlan("holdout", index, size) for index in range(holdout // size))


def select(plans: Sequence[ShardPlan], text: str) -> tuple[ShardPlan, ...]:
    """The shards of a range such as ``8:16``, counted over the whole plan; ``0:0`` selects none, for a fit alone.

    Raises:
        ParamsError: not two whole numbers a:b with 0 <= a <= b <= the number of shards.
    """
    match = re.fullmatch(r"([0-9]{1,9}):([0-9]{1,9})", text)
    if match is None or not int(match[1]) <= int(match[2]) <= len(plans):
        raise ParamsError(f"--shards {text}: expected a:b with 0 <= a <= b <= {len(plans)}, the number of shards")
    return tuple(plans[int(match[1]) : int(match[2])])


def _whole(key: str, value: int, size: int, least: int) -> None:
    if value >= least and value % size == 0:
        return
    below = max(least, value // size * size)
    nearest = " or ".join(str(number) for number in dict.fromkeys((below, max(below, value // size * size + size))))
    raise ParamsError(f"{key}: {value}: expected a multiple of shards.size ({size}); the nearest: {nearest}")
