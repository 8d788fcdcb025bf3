"""The dataset format: WebDataset tars under a manifest, written deterministically, read strictly and verified."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .manifest import Manifest as Manifest
    from .reader import Dataset as Dataset
    from .reader import Samples as Samples

__all__ = ["Dataset", "Manifest", "Samples"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: who writes shards needs no reader, who plans them no torch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # By name, so that the code of the reader is in the fingerprint of those alone who import it (see `core.code`).
    return getattr(import_module(f"{__name__}.{'manifest' if name == 'Manifest' else 'reader'}"), name)
