"""The only place that knows pixel ranges: images are [0, 1] floats, uint8 on disk, normalised inside a network."""

import torch
from torch import Tensor, nn

__all__ = ["Normalise", "from_uint8", "to_uint8", "to_unit"]


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


class Normalise(nn.Module):
    """Per-channel (x - mean) / std on [N, C, H, W] images in [0, 1]."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        """Mean and std are in [0, 1] units, one per channel."""
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """[N, C, H, W] in [0, 1] to the same shape, normalised."""
        return (images - self.mean) / self.std
