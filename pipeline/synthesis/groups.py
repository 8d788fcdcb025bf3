"""How the images of a shard are divided into groups that share something, and groups into batches."""

from itertools import groupby
from typing import NamedTuple

__all__ = ["Part", "batches_of_groups"]


class Part(NamedTuple):
    """Images that are optimised together."""

    images: slice
    group: int  # images per group; the part holds a whole number of groups


def batches_of_groups(count: int, group: int, groups: int) -> list[Part]:
    """Divide `count` images into groups of `group` and batches of at most `groups` groups.

    What does not divide is spread: ceil(count / group) groups, whose sizes differ by one image at most, so that no
    group is too small for its statistics. Groups of different sizes never share a batch.
    """
    number = -(-count // group)
    sizes = [count // number + (place < count % number) for place in range(number)]
    parts: list[Part] = []
    first = 0
    for size, run in groupby(sizes):
        left = len(list(run))
        while left:
            now = min(left, groups)
            parts.append(Part(slice(first, first + now * size), size))
            first, left = first + now * size, left - now
    return parts
