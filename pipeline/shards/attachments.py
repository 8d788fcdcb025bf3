"""Moved to `work`."""  # shim

from .work import Attachments as Attachments  # noqa: PLC0414 # shim
