"""The old place of `manifest`."""

# shim
from .manifest import *  # noqa: F403
