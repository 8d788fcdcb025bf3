"""The old place of `summary`."""

# shim
from .__main__ import summary

__all__ = ["summary"]
