"""The dataset format: WebDataset tars under a manifest, written deterministically, read strictly and verified."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .manifest import Manifest as Manifest
    from .reader import Dataset as Dataset
    from .reader import Samples as Samples

__all__ = ["Dataset", "Manifest", "Samples"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: the plan of a dataset and its limits need no torch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import manifest, reader

    return getattr(manifest if name == "Manifest" else reader, name)
