"""Contact sheets: a row per class, its name on the left, small pictures enlarged so that they can be read."""

from collections.abc import Sequence
from io import BytesIO
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

__all__ = ["contact_sheet", "png_bytes"]

_READABLE = 64  # pixels; smaller pictures are enlarged by a whole factor to at least this
_GAP = 3  # pixels between pictures
_MARGIN = 10  # pixels around the sheet and beside the names
_FONT = 14  # pixels
_NAME_LETTERS = 20
_PAPER, _INK, _EMPTY = (255, 255, 255), (34, 34, 34), (240, 240, 240)


def contact_sheet(images: Tensor, cls: Tensor, classes: Sequence[str], per_class: int) -> Image.Image:
    """Draw the first `per_class` pictures of every class.

    Args:
        images: uint8 [N, C, H, W]; one channel is drawn grey, three in colour, of any other number the first.
        cls: int64 [N], the row each picture goes to.
        classes: names, one per row.
        per_class: pictures in a row; missing ones leave a pale square.
    """
    pictures = _pictures(images)
    height, width = pictures.shape[1:3]
    factor = max(1, -(-_READABLE // max(height, width)))
    cell_height, cell_width = height * factor + _GAP, width * factor + _GAP
    row_height = max(cell_height, _FONT + _GAP)
    font = ImageFont.load_default(_FONT)
    names = [_short(name) for name in classes]
    left = _MARGIN * 2 + max((int(font.getlength(name)) for name in names), default=0)

    size = (left + per_class * cell_width - _GAP + _MARGIN, _MARGIN * 2 + len(names) * row_height - _GAP)
    sheet = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(sheet)
    for row, name in enumerate(names):
        top = _MARGIN + row * row_height
        middle = top + (row_height - _GAP) // 2
        draw.text((left - _MARGIN, middle), name, fill=_INK, font=font, anchor="rm")
        members = cast(list[int], torch.nonzero(cls == row).flatten()[:per_class].tolist())
        for column in range(per_class):
            corner = (left + column * cell_width, top)
            if column < len(members):
                picture = Image.fromarray(pictures[members[column]])
                enlarged = picture.resize((width * factor, height * factor), Image.Resampling.NEAREST)
                sheet.paste(enlarged, corner)
            else:
                end = (corner[0] + width * factor - 1, corner[1] + height * factor - 1)
                draw.rectangle((corner, end), fill=_EMPTY)
    return sheet


def png_bytes(image: Image.Image) -> bytes:
    """An image as PNG, without time or software stamps."""
    buffer = BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _pictures(images: Tensor) -> npt.NDArray[np.uint8]:
    """[N, C, H, W] to [N, H, W, 3]."""
    colour = images if images.shape[1] == 3 else images[:, :1].expand(-1, 3, -1, -1)
    return np.ascontiguousarray(colour.permute(0, 2, 3, 1).numpy())


def _short(name: str) -> str:
    return name if len(name) <= _NAME_LETTERS else f"{name[: _NAME_LETTERS - 1]}…"
