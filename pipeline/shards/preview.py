"""Contact sheets: a row per class, its name on the left, the first pictures that the shards hold. Nothing is chosen.

The card of a dataset and the report draw with the same functions; equal pictures give equal bytes.
"""

import unicodedata
from collections.abc import Sequence
from io import BytesIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..core.images import to_uint8
from .reader import Dataset

__all__ = ["Pixels", "contact_sheet", "draw_label", "first_pictures", "png_bytes", "preview", "short_label", "to_image"]

Pixels = NDArray[np.uint8]  # [H, W, C], C 1 or 3

_PER_CLASS = 10
_MOST_CLASSES = 50  # of a dataset with more, evenly chosen ones that have training images are shown
_MOST_SHARDS = 8  # that are looked through for rare classes
_LARGEST = 256  # pixels; larger pictures are reduced to this

_READABLE = 64  # pixels; smaller pictures are enlarged by a whole factor to at least this
_GAP = 3  # pixels between pictures
_MARGIN = 10  # pixels around the sheet and beside the names
_FONT = 14  # pixels
_LETTERS = 20  # of a name
_PAPER, _INK, _EMPTY = (255, 255, 255), (34, 34, 34), (240, 240, 240)


def preview(dataset: Dataset) -> bytes:
    """The contact sheet that lies beside a dataset, as PNG; a function of its shards alone.

    Raises:
        ShardError: a shard is missing or damaged.
    """
    teacher = dataset.manifest.teacher
    shown = _shown(dataset.manifest.class_histogram)
    found = first_pictures(dataset, shown, _PER_CLASS, _LARGEST, _MOST_SHARDS)
    sheet = contact_sheet(list(found.values()), [teacher.classes[number] for number in shown], _PER_CLASS)
    return png_bytes(sheet)


def _shown(histogram: tuple[int, ...]) -> list[int]:
    """The classes of the sheet's rows: noise may fall into a few of a thousand, and those are to be seen."""
    if len(histogram) <= _MOST_CLASSES:
        return list(range(len(histogram)))
    there = [number for number, count in enumerate(histogram) if count]
    rows = min(len(there), _MOST_CLASSES)
    return [there[row * len(there) // rows] for row in range(rows)]


def first_pictures(
    dataset: Dataset, classes: Sequence[int], per_class: int, largest: int, shards: int | None = None
) -> dict[int, list[Pixels]]:
    """The first training pictures of some classes, in the order they are stored.

    Args:
        dataset: where they are.
        classes: whose pictures are looked for; the result has their order.
        per_class: how many of each; reading ends when all are found.
        largest: in pixels; larger pictures are reduced.
        shards: how many are read at most; None for all.

    Raises:
        ShardError: a shard is missing or damaged.
    """
    found: dict[int, list[Pixels]] = {number: [] for number in classes}
    for entry in dataset.manifest.entries("train")[:shards]:
        if all(len(pictures) == per_class for pictures in found.values()):
            break
        samples = dataset.read(entry)
        for number, pictures in found.items():
            here = torch.nonzero(samples.cls == number).flatten()[: per_class - len(pictures)]
            pictures.extend(_pixels(image, largest) for image in samples.images[here])
    return found


def _pixels(image: Tensor, largest: int) -> Pixels:
    """[C, H, W] as stored to what is shown: one channel grey, three in colour, of any other number the first."""
    stored = image if image.dtype == torch.uint8 else to_uint8(image)
    shown = stored if len(stored) in {1, 3} else stored[:1]
    picture = to_image(shown.permute(1, 2, 0).numpy())
    if max(picture.size) > largest:
        picture.thumbnail((largest, largest), Image.Resampling.BOX)
    pixels = np.asarray(picture)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def contact_sheet(
    rows: Sequence[Sequence[Pixels]], names: Sequence[str], columns: int, readable: int = _READABLE
) -> Image.Image:
    """Draw rows of pictures with their names.

    Args:
        rows: pictures of one size.
        names: one per row.
        columns: pictures in a row; missing ones leave a pale square, surplus ones are left out.
        readable: in pixels; smaller pictures are enlarged by a whole factor to at least this.
    """
    height, width = next((picture.shape[:2] for row in rows for picture in row), (readable, readable))
    factor = max(1, -(-readable // max(height, width)))
    high, wide = height * factor, width * factor
    row_height = max(high, _FONT) + _GAP
    labels = [short_label(name) for name in names]
    font = ImageFont.load_default(_FONT)
    left = _MARGIN * 2 + max((int(font.getlength(label)) for label in labels), default=0)
    size = (left + columns * (wide + _GAP) - _GAP + _MARGIN, _MARGIN * 2 + max(0, len(labels) * row_height - _GAP))
    sheet = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, (label, pictures) in enumerate(zip(labels, rows, strict=True)):
        top = _MARGIN + number * row_height
        draw_label(sheet, label, left - _MARGIN, top + (row_height - _GAP) // 2)
        for column in range(columns):
            x = left + column * (wide + _GAP)
            if column < len(pictures):
                enlarged = to_image(pictures[column]).resize((wide, high), Image.Resampling.NEAREST)
                sheet.paste(enlarged, (x, top))
            else:
                draw.rectangle((x, top, x + wide - 1, top + high - 1), fill=_EMPTY)
    return sheet


def draw_label(sheet: Image.Image, text: str, right: int, middle: int, font: int = _FONT) -> None:
    """Write a label that ends at x = `right` and is centred on y = `middle`; `font` in pixels."""
    style = ImageFont.load_default(font)
    ImageDraw.Draw(sheet).text((right, middle), text, fill=_INK, font=style, anchor="rm")


def short_label(text: str, letters: int = _LETTERS) -> str:
    """One printable line of at most `letters` characters, whatever a class is called."""
    line = " ".join("".join(" " if unicodedata.category(c).startswith("C") else c for c in text).split())
    return line if len(line) <= letters else f"{line[: letters - 1]}…"


def to_image(pixels: Pixels) -> Image.Image:
    """[H, W, 1 or 3] as a picture, grey or in colour."""
    return Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels))


def png_bytes(image: Image.Image) -> bytes:
    """An image as PNG, without time or software stamps."""
    buffer = BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
