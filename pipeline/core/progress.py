"""Progress bars on stderr, silent where nobody watches."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

__all__ = ["track"]

T = TypeVar("T")


def track(items: Iterable[T], what: str, total: int | None = None, unit: str = "it") -> Iterator[T]:
    """Iterate with a bar named `what`; nothing is drawn unless stderr is a terminal."""
    yield from tqdm(items, desc=what, total=total, unit=unit, disable=None, leave=False, dynamic_ncols=True)
