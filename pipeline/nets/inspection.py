"""Moved to `probe`."""  # shim

from .probe import Points, note, points  # noqa: F401
from .probe import answer as probe  # noqa: F401
