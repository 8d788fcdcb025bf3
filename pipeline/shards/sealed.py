"""Moved to `core.files`."""  # shim

from ..core.files import read_object as read_object  # noqa: PLC0414 # shim
from ..core.files import read_sealed as read_sealed  # noqa: PLC0414 # shim
from ..core.files import sealed as sealed  # noqa: PLC0414 # shim
