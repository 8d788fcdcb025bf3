"""Moved to `layers`."""  # shim

from .layers import MaxPool2x2  # noqa: F401
