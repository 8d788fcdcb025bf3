"""Where the optimisation of an image starts."""

from typing import Literal

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor
from torch.nn.functional import interpolate

from pipeline.core.params import Block

__all__ = ["Start"]


class Start(Block):
    """Noise, drawn on a grid of `resolution` pixels a side and enlarged to the image's size.

    A coarse grid starts from blobs instead of single pixels; what the optimisation leaves untouched stays smooth.
    """

    distribution: Literal["uniform", "normal"]  # U[-1, 1] or N(0, 1), before level and spread
    level: float  # centre, in [0, 1] pixel units
    spread: NonNegativeFloat  # factor on the noise, in [0, 1] pixel units
    resolution: PositiveInt  # pixels a side; from the image's size upwards the noise is per pixel

    def draw(self, shape: tuple[int, int, int, int], rng: torch.Generator) -> Tensor:
        """Starting images of `shape` [N, C, H, W], float32 in [0, 1]: U[0, 1] is uniform with level and spread 0.5."""
        count, channels, height, width = shape
        grid = (count, channels, min(height, self.resolution), min(width, self.resolution))
        if self.distribution == "uniform":
            noise = 2 * torch.rand(grid, generator=rng) - 1
        else:
            noise = torch.randn(grid, generator=rng)
        if grid != shape:
            noise = interpolate(noise, size=(height, width), mode="bicubic", align_corners=False)
        return (self.level + self.spread * noise).clamp(0, 1)
