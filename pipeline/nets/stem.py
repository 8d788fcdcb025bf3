"""Moved to `layers`."""  # shim

from .layers import StemConv2d  # noqa: F401
