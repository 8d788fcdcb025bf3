"""The only place that knows pixel ranges: images are [0, 1] floats, uint8 on disk, normalised inside a network."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

__all__ = ["MAX_CHANNELS", "MAX_CLASSES", "MAX_SIZE", "Channels", "Side", "from_uint8", "to_uint8", "to_unit"]

MAX_CLASSES, MAX_CHANNELS, MAX_SIZE = 100_000, 64, 8192  # of teachers, and so of datasets; readers refuse more

Channels = Annotated[int, Field(ge=1, le=MAX_CHANNELS)]
Side = Annotated[int, Field(ge=1, le=MAX_SIZE)]  # height and width in pixels


def to_uint8(images: Tensor) -> Tensor:
    """Round [0, 1] floats to 0..255 (half to even; never truncated). Values outside are clamped first.

    Raises:
        ValueError: a value is not finite.
    """
    if not bool(torch.isfinite(images).all()):
        raise ValueError("images hold values that are not finite")
    return images.float().clamp(0, 1).mul(255).round().to(torch.uint8)


def from_uint8(images: Tensor) -> Tensor:
    """0..255 to float32 in [0, 1]."""
    return images.float().div(255)


def to_unit(images: Tensor) -> Tensor:
    """Stored images, uint8 or float16, to float32 in [0, 1]."""
    return from_uint8(images) if images.dtype == torch.uint8 else images.float()
