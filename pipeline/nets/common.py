"""Moved to `layers`."""  # shim

from .layers import drawing_from, he, named, require, unknown  # noqa: F401
