"""The old place of `Samples` and `Tally`."""

# shim
from .reader import Samples, Tally

__all__ = ["Samples", "Tally"]
