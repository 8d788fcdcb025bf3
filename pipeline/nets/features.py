"""Moved to `probe`."""  # shim

from .probe import capture  # noqa: F401
