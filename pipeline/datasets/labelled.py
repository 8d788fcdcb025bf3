"""Labelled images in memory, and the one way pixels of any size and mode become them."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from pipeline.core.errors import DataError

__all__ = ["Labelled", "collect"]

_EIGHT_BIT_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"}


class Labelled(NamedTuple):
    """One split of a classification set."""

    images: Tensor  # uint8 [N, C, H, W]
    labels: Tensor  # int64 [N], each in [0, len(classes))
    classes: tuple[str, ...]


def collect(
    samples: Iterable[tuple[Image.Image, int]], classes: tuple[str, ...] | None, size: int, channels: int, where: str
) -> Labelled:
    """Convert and stack samples.

    Args:
        samples: images of any size and 8-bit mode, with their labels.
        classes: names by label, or None to number them up to the greatest label.
        size: height and width of the result. An image that is not square is cut to the central square first.
        channels: 1 (luminance, ITU-R 601) or 3 (RGB).
        where: names the set in messages.

    Raises:
        DataError: no sample at all, a label outside the classes, or pixels of more than 8 bits.
    """
    pixels: list[Tensor] = []
    labels: list[int] = []
    for image, label in samples:
        if type(label) is not int:
            raise DataError(f"{where}: sample {len(labels)} has target {label!r}, expected a class number")
        pixels.append(_pixels(image, size, channels, f"{where}: sample {len(labels)}"))
        labels.append(label)
    if not labels:
        raise DataError(f"{where}: no images there")
    names = classes or tuple(str(label) for label in range(max(labels) + 1))
    if not 0 <= min(labels) <= max(labels) < len(names):
        raise DataError(f"{where}: labels run from {min(labels)} to {max(labels)}, but there are {len(names)} classes")
    return Labelled(torch.stack(pixels), torch.tensor(labels, dtype=torch.int64), names)


def _pixels(image: Image.Image, size: int, channels: int, where: str) -> Tensor:
    """One image as uint8 [C, H, W]: convert, cut square, resize bilinearly (antialiased when it shrinks)."""
    if image.mode not in _EIGHT_BIT_MODES:
        raise DataError(f"{where}: image mode {image.mode} has more than 8 bits a channel; convert it to 8 bits")
    converted = image.convert("L" if channels == 1 else "RGB")
    if converted.size != (size, size):
        converted = ImageOps.fit(converted, (size, size), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(converted).reshape(size, size, channels)).permute(2, 0, 1).contiguous()
