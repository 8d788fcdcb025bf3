"""Pictures of a dataset: the first images of each class, in the order they were made. Nothing is hand-picked."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pipeline.core.images import to_uint8
from pipeline.report.drawing import draw_label, png_bytes
from pipeline.shards.reader import Dataset

__all__ = ["Pictures", "first_images", "sheet_png", "shown_classes", "strip_png"]

_CLASSES = 20  # shown at most, evenly spread: a page of a thousand rows is read by nobody
_SIDE = 64  # pixels; larger images are reduced to this
_SHEET_SIDE = 32  # pixels; smaller images are enlarged to about this on the sheet
_GAP = 1

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Pictures:
    """The first images of the shown classes."""

    classes: tuple[int, ...]
    images: tuple[tuple[Pixels, ...], ...]  # for each shown class up to `per_class` images, uint8 [H, W, C], C 1 or 3
    per_class: int


def shown_classes(count: int) -> tuple[int, ...]:
    """Which of `count` classes are pictured."""
    if count <= _CLASSES:
        return tuple(range(count))
    return tuple(int(index) for index in np.linspace(0, count - 1, _CLASSES).round())


def first_images(dataset: Dataset, classes: int, per_class: int) -> Pictures:
    """Read train shards until every shown class has `per_class` images, or to the end.

    Raises:
        ShardError: a shard is damaged.
    """
    wanted = shown_classes(classes)
    found: dict[int, list[Pixels]] = {index: [] for index in wanted}
    for samples in dataset.shards("train"):
        for index, images in found.items():
            room = per_class - len(images)
            here = torch.nonzero(samples.cls == index).flatten()[:room]
            images.extend(_pixels(image) for image in samples.images[here])
        if all(len(images) == per_class for images in found.values()):
            break
    return Pictures(wanted, tuple(tuple(found[index]) for index in wanted), per_class)


def strip_png(images: Sequence[Pixels], per_class: int) -> bytes | None:
    """Images of one class side by side, with room for `per_class`; None when there are none."""
    if not images:
        return None
    height, width, _ = images[0].shape
    strip = Image.new("RGBA", (per_class * (width + _GAP) - _GAP, height))
    for column, image in enumerate(images):
        strip.paste(_picture(image), (column * (width + _GAP), 0))
    return png_bytes(strip)


def sheet_png(pictures: Pictures, names: Sequence[str]) -> bytes:
    """Every shown class on one white sheet, a row each, with its name."""
    shape = next((images[0].shape for images in pictures.images if images), (_SHEET_SIDE, _SHEET_SIDE, 1))
    zoom = max(1, _SHEET_SIDE // shape[0])
    high, wide = shape[0] * zoom + 2, shape[1] * zoom + 2
    sheet = Image.new("RGB", (120 + pictures.per_class * wide, len(pictures.classes) * high + 2), "white")
    for row, (index, images) in enumerate(zip(pictures.classes, pictures.images, strict=True)):
        draw_label(sheet, names[index], right=112, middle=row * high + high // 2)
        for column, image in enumerate(images):
            scaled = _picture(image).resize((shape[1] * zoom, shape[0] * zoom), Image.Resampling.NEAREST)
            sheet.paste(scaled, (120 + column * wide, row * high + 2))
    return png_bytes(sheet)


def _pixels(image: Tensor) -> Pixels:
    """[C, H, W] as stored to uint8 [H, W, C] of at most `_SIDE` pixels; one or three channels are shown."""
    stored = image if image.dtype == torch.uint8 else to_uint8(image)
    shown = stored if len(stored) in (1, 3) else stored[:1]
    picture = _picture(shown.permute(1, 2, 0).cpu().numpy())
    if max(picture.size) > _SIDE:
        picture.thumbnail((_SIDE, _SIDE), Image.Resampling.BOX)
    pixels = np.asarray(picture)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _picture(pixels: Pixels) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels))
