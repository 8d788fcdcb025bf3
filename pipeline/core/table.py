"""Moved to `files`."""  # shim

from .files import csv_bytes as csv_bytes  # noqa: PLC0414 # shim
