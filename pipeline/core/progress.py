"""Progress on stderr: bars, silent where nobody watches, and lines."""

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

__all__ = ["say", "track"]

T = TypeVar("T")


def track(items: Iterable[T], what: str, total: int | None = None, unit: str = "it") -> Iterator[T]:
    """Iterate with a bar named `what`; nothing is drawn unless stderr is a terminal."""
    yield from tqdm(items, desc=what, total=total, unit=unit, disable=None, leave=False, dynamic_ncols=True)


def say(line: str) -> None:
    """A line on stderr, above the bar if there is one."""
    tqdm.write(line, file=sys.stderr)
