"""Random augmentation, drawn per image and made for a whole batch at once on the images' device."""

import math
from typing import Annotated, Literal

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, model_validator
from torch import Tensor
from torch.nn import functional

from ..core.params import Block

__all__ = ["DRAWS", "Augment", "augment", "augment_with", "uniforms"]

DRAWS = 10  # uniform numbers per image: flip, crop y x, angle, shear, scale, shift y x, cutout y x
_FLIP, _CROP, _ANGLE, _SHEAR, _SCALE, _SHIFT, _CUTOUT = 0, slice(1, 3), 3, 4, 5, slice(6, 8), slice(8, 10)


class Augment(Block):
    """What may happen to an image. What is absent does not, and costs nothing."""

    crop: NonNegativeInt = 0  # px of black padding on each side before a crop back to size
    flip: bool = False  # left-right with probability 1/2
    rotate: Annotated[float, Field(ge=0, le=180)] = 0.0  # degrees, uniform in +-rotate
    translate: Annotated[float, Field(ge=0, le=1)] = 0.0  # fraction of height and of width, uniform in +-translate
    scale: tuple[PositiveFloat, PositiveFloat] = (1.0, 1.0)  # uniform in this range; above 1 enlarges
    shear: Annotated[float, Field(ge=0, lt=90)] = 0.0  # degrees along x, uniform in +-shear
    cutout: NonNegativeInt = 0  # px side of a black square inside the image
    fill: Literal["zeros", "border"] | None = None  # what rotate, translate, scale and shear bring in from outside

    @model_validator(mode="after")
    def _filled(self) -> "Augment":
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"scale: {list(self.scale)}: expected the smaller factor first")
        if self.affine and self.fill is None:
            raise ValueError("fill: missing; rotate, translate, scale and shear need zeros or border")
        return self

    @property
    def affine(self) -> bool:
        """Whether images are resampled, and not merely cropped and flipped."""
        return self.rotate > 0 or self.translate > 0 or self.shear > 0 or self.scale != (1.0, 1.0)


def uniforms(count: int, rng: torch.Generator, device: torch.device) -> Tensor:
    """[count, `DRAWS`] numbers in [0, 1): all that is random about the augmentation of so many images."""
    return torch.rand(count, DRAWS, generator=rng).to(device)


def augment(images: Tensor, block: Augment | None, rng: torch.Generator) -> Tensor:
    """Augment [N, C, H, W] images in [0, 1], each in its own way.

    The same numbers leave `rng`, a CPU generator, whatever the block asks for.
    """
    return augment_with(images, block, uniforms(len(images), rng, images.device))


def augment_with(images: Tensor, block: Augment | None, numbers: Tensor) -> Tensor:
    """Augment with given numbers, in the order crop, flip, affine, cutout.

    Args:
        images: [N, C, H, W] float in [0, 1].
        block: what may happen; None: nothing.
        numbers: [N, `DRAWS`] in [0, 1), on the images' device.
    """
    if block is None:
        return images
    if block.affine:
        images = _affine(images, block, numbers)
    else:
        images = _crop(images, block.crop, numbers[:, _CROP])
        images = _flip(images, numbers[:, _FLIP]) if block.flip else images
    return _cutout(images, block.cutout, numbers[:, _CUTOUT]) if block.cutout else images


def _below(uniforms: Tensor, count: Tensor | int) -> Tensor:
    """Integers 0..count-1; rounding in float32 may reach `count` itself, hence the bound."""
    return uniforms.mul(count).long().clamp_(max=count - 1)


def _crop(images: Tensor, padding: int, uniforms: Tensor) -> Tensor:
    if padding == 0:
        return images
    height, width = images.shape[-2:]
    windows = functional.pad(images, (padding,) * 4).unfold(2, height, 1).unfold(3, width, 1)
    top, left = _below(uniforms, 2 * padding + 1).unbind(1)
    return windows[torch.arange(len(images), device=images.device), :, top, left]


def _flip(images: Tensor, uniforms: Tensor) -> Tensor:
    return torch.where((uniforms < 0.5).view(-1, 1, 1, 1), images.flip(3), images)


def _cutout(images: Tensor, side: int, uniforms: Tensor) -> Tensor:
    """A black square per image (DeVries & Taylor 2017); unlike theirs it never leaves the image: its area is exact."""
    height, width = images.shape[-2:]
    rows = _span(uniforms[:, 0], side, height)
    columns = _span(uniforms[:, 1], side, width)
    return images.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0.0)


def _span(uniforms: Tensor, side: int, length: int) -> Tensor:
    """[N, length] booleans, true on `side` neighbours."""
    start = _below(uniforms, max(1, length - side + 1))[:, None]
    places = torch.arange(length, device=uniforms.device)
    return (places >= start) & (places < start + side)


def _affine(images: Tensor, block: Augment, uniforms: Tensor) -> Tensor:
    """Crop, flip and affine map in one bilinear resampling; here `fill` also decides what the crop brings in."""
    height, width = images.shape[-2:]
    maps = _maps(block, uniforms, height, width)[..., None, None]  # [2, 3, N, 1, 1]
    # Column part plus row part, coordinates outermost: 20 times faster on a CPU than `affine_grid`'s product.
    grid = maps[:, 0] * _centres(width, maps) + (maps[:, 1] * _centres(height, maps)[:, None] + maps[:, 2])
    return functional.grid_sample(
        images, grid.permute(1, 2, 3, 0), mode="bilinear", padding_mode=block.fill or "zeros", align_corners=False
    )


def _centres(length: int, like: Tensor) -> Tensor:
    """Where pixel centres lie when an image's edges are at -1 and 1."""
    return (torch.arange(length, device=like.device, dtype=like.dtype) * 2 + 1) / length - 1


def _maps(block: Augment, uniforms: Tensor, height: int, width: int) -> Tensor:
    """[2, 3, N] affine maps from an augmented image's coordinates (x, y, 1) to the image's (x, y), edges at -1 and 1.

    The augmented image is y = R(angle) S(scale) H(shear) x + shift in pixels, so x = H^-1 S^-1 R^-1 (y - shift);
    angles turn counter-clockwise as one looks at the image.
    """
    signed = uniforms * 2 - 1
    angle = signed[:, _ANGLE] * math.radians(block.rotate)
    slope = torch.tan(signed[:, _SHEAR] * math.radians(block.shear))
    zoom = block.scale[0] + uniforms[:, _SCALE] * (block.scale[1] - block.scale[0])
    sin, cos = torch.sin(angle) / zoom, torch.cos(angle) / zoom
    aspect = height / width  # the map is linear in pixels; coordinates are in half sides
    x, y = torch.stack([cos - slope * sin, -(sin + slope * cos) * aspect]), torch.stack([sin / aspect, cos])
    shift = signed[:, _SHIFT].flip(1).T * (2 * block.translate)
    x, y = torch.cat([x, -(x * shift).sum(0, keepdim=True)]), torch.cat([y, -(y * shift).sum(0, keepdim=True)])
    # Flip and crop act on the image before the map, so on the coordinates after it.
    if block.flip:
        x = torch.where(uniforms[:, _FLIP] < 0.5, -x, x)
    if block.crop:
        down, right = (_below(uniforms[:, _CROP], 2 * block.crop + 1) - block.crop).unbind(1)
        x[2] += right * (2 / width)
        y[2] += down * (2 / height)
    return torch.stack([x, y])
