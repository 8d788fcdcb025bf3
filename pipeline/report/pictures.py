"""Pictures: the first images of each class of a dataset as they were made, and the matrix of similar classes.

Equal input gives equal bytes.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ..shards.preview import contact_sheet, first_pictures, png_bytes, short_label, to_image
from ..shards.reader import Dataset

__all__ = ["Pictures", "data_uri", "first_images", "sheet_png", "similarity_png", "strip_png"]

_CLASSES = 20  # shown at most, evenly spread: a page of a thousand rows is read by nobody
_SIDE = 64  # pixels; larger images are reduced to this
_GAP = 1

_WARM, _COOL = (201, 90, 30), (36, 99, 178)  # alike, opposed; legible on light and dark paper
_INK = (40, 40, 40)
_LABELLED = 40  # classes; more names would not be legible
_MATRIX = 640  # pixels, about, of the matrix's square
_MARGIN = 120  # pixels for class names


Pixels = NDArray[np.uint8]  # [H, W, C], C 1 or 3


@dataclass(frozen=True)
class Pictures:
    """The first images of the shown classes."""

    classes: tuple[int, ...]
    images: tuple[tuple[Pixels, ...], ...]  # for each shown class up to `per_class`
    per_class: int


def data_uri(png: bytes) -> str:
    """A PNG as a `data:` address, so that the page needs no other file."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


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
    found = first_pictures(dataset, shown_classes(classes), per_class, _SIDE)
    return Pictures(tuple(found), tuple(map(tuple, found.values())), per_class)


def strip_png(images: Sequence[Pixels], per_class: int) -> bytes | None:
    """Images of one class side by side, with room for `per_class`; None when there are none."""
    if not images:
        return None
    height, width, _ = images[0].shape
    strip = Image.new("RGBA", (per_class * (width + _GAP) - _GAP, height))
    for column, image in enumerate(images):
        strip.paste(to_image(image), (column * (width + _GAP), 0))
    return png_bytes(strip)


def sheet_png(pictures: Pictures, names: Sequence[str]) -> bytes:
    """Every shown class on one white sheet, a row each, with its name."""
    return png_bytes(contact_sheet(pictures.images, [names[index] for index in pictures.classes], pictures.per_class))


def scale_of(similarity: NDArray[np.float64]) -> float:
    """The largest magnitude off the diagonal: full colour. The diagonal is 1 by definition and would drown the rest."""
    off = np.abs(similarity[~np.eye(len(similarity), dtype=bool)])
    return float(off.max(initial=0.0)) or 1.0


def colours(similarity: NDArray[np.float64]) -> NDArray[np.uint8]:
    """[K, K] similarities to [K, K, 4] RGBA: warm is alike, cool is opposed, opacity is strength, diagonal clear."""
    strength = np.clip(np.abs(similarity) / scale_of(similarity), 0, 1)
    np.fill_diagonal(strength, 0)
    hue = np.where(similarity[..., None] >= 0, np.array(_WARM), np.array(_COOL))
    return np.concatenate([hue, np.round(strength * 230)[..., None]], axis=2).astype(np.uint8)


def pixels_png(similarity: NDArray[np.float64]) -> bytes:
    """The matrix as K x K pixels, to be enlarged without smoothing."""
    return png_bytes(Image.fromarray(colours(similarity)))


def similarity_png(similarity: NDArray[np.float64], classes: tuple[str, ...]) -> bytes:
    """The matrix as a picture on white, with class names where they are legible."""
    count = len(similarity)
    cell, margin = max(1, _MATRIX // count), _MARGIN if count <= _LABELLED else 8
    square = Image.fromarray(colours(similarity)).resize((cell * count, cell * count), Image.Resampling.NEAREST)
    sheet = Image.new("RGBA", (margin + cell * count + 8, margin + cell * count + 8), "white")
    sheet.alpha_composite(square, (margin, margin))
    for index, name in enumerate(classes if count <= _LABELLED else ()):
        middle = margin + index * cell + cell // 2
        sheet.alpha_composite(_label(name, "rm"), (0, middle - 8))
        sheet.alpha_composite(_label(name, "lm").transpose(Image.Transpose.ROTATE_90), (middle - 8, 0))
    return png_bytes(sheet.convert("RGB"))


def _label(name: str, anchor: str) -> Image.Image:
    """A class name against the right (`rm`) or left (`lm`) end of a strip as long as the margin."""
    label = Image.new("RGBA", (_MARGIN - 8, 16))
    at = (label.width if anchor == "rm" else 0, 8)
    ImageDraw.Draw(label).text(at, short_label(name, 16), fill=_INK, font=ImageFont.load_default(12), anchor=anchor)
    return label
