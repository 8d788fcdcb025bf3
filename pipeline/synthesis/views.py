"""Random views of images being optimised, differentiable with respect to the pixels."""

import math

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from pipeline.core.params import Block

__all__ = ["Views"]


class Views(Block):
    """Rotate, scale and shift each image by its own random amounts; what comes in from outside repeats the border.

    An image that must keep its label under all views cannot rely on isolated pixels, so larger structures appear.
    """

    rotation: NonNegativeFloat  # degrees, uniform in [-rotation, rotation]
    scale: tuple[PositiveFloat, PositiveFloat]  # range of the zoom factor, 1 is unchanged
    translation: NonNegativeFloat  # fraction of the image's side, uniform in [-translation, translation] per axis

    @property
    def off(self) -> bool:
        """Whether every view is the image itself."""
        return self.rotation == 0 and self.translation == 0 and self.scale == (1, 1)

    def __call__(self, images: Tensor, rng: torch.Generator) -> Tensor:
        """One random view of each of [N, C, H, W]; nothing is drawn from the CPU generator `rng` when off."""
        if self.off:
            return images
        draws = torch.rand(4, len(images), generator=rng).to(images.device)
        angle = (2 * draws[0] - 1) * math.radians(self.rotation)
        zoom = self.scale[0] + draws[1] * (self.scale[1] - self.scale[0])
        shift = (2 * draws[2:] - 1) * 2 * self.translation  # grid coordinates span 2 per side
        cos, sin = angle.cos() / zoom, angle.sin() / zoom
        rows = torch.stack([torch.stack([cos, -sin, shift[0]], 1), torch.stack([sin, cos, shift[1]], 1)], 1)
        grid = affine_grid(rows, list(images.shape), align_corners=False)
        return grid_sample(images, grid.to(images.dtype), padding_mode="border", align_corners=False)
