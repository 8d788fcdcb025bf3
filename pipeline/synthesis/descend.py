"""Moved."""  # shim

from ..optimise.pixels import Adam as Adam
from ..optimise.pixels import descend as descend
from ..optimise.pixels import quick as quick
