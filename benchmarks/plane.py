"""Pictures of three-class classifiers on a square of the plane; equal input gives equal bytes."""

import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

__all__ = ["SPAN", "Panel", "animation", "boundaries", "crowd", "grid", "regions", "strip"]

SPAN = 1.5  # the square is [-SPAN, SPAN]^2
_PAPER, _INK, _GREY, _FRAME = (255, 255, 255), (38, 40, 48), (104, 107, 116), (176, 179, 188)
_PALE = ((205, 224, 243), (252, 229, 199), (212, 236, 207))  # one per class
_STRONG = ((44, 110, 176), (212, 120, 20), (58, 142, 68))  # likewise
_PSEUDO = (208, 24, 104)
_LINE = 2.0  # pixels
_FINE = 4  # dots are drawn this many times too large, then averaged
_FONT = 19  # pixels
_GAP, _MARGIN, _HEAD, _FOOT = 16, 14, 30, 36  # pixels

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Floats = npt.NDArray[np.float64]


class Panel(NamedTuple):
    """A square picture with a label above each end."""

    picture: Image.Image
    left: str
    right: str


def grid(side: int) -> Tensor:
    """The centres of side x side pixels, [side * side, 2] float32 (x, y), row by row from the top."""
    axis = (torch.arange(side) + 0.5) * (2 * SPAN / side) - SPAN
    y, x = torch.meshgrid(-axis, axis, indexing="ij")
    return torch.stack([x, y], dim=-1).reshape(-1, 2)


def regions(net: nn.Module, side: int) -> Image.Image:
    """A pale colour for each of three classes, side x side pixels."""
    shares = np.clip(_distances(net, side) + 0.5, 0, 1)
    colours = np.tensordot(shares / shares.sum(0), np.array(_PALE), axes=(0, 0))
    return Image.fromarray(np.rint(colours).astype(np.uint8))


def boundaries(picture: Image.Image, net: nn.Module) -> Image.Image:
    """A copy with dark lines where `net` is between two classes."""
    nearest = np.abs(_distances(net, picture.width)).min(0)
    line = Image.fromarray(np.rint(np.clip((_LINE + 1) / 2 - nearest, 0, 1) * 255).astype(np.uint8))
    return Image.composite(Image.new("RGB", picture.size, _INK), picture, line)


def crowd(picture: Image.Image, points: Tensor, labels: Tensor | None, radius: float) -> Image.Image:
    """A copy with a dot for each point.

    Args:
        picture: square.
        points: [N, 2] in the plane.
        labels: int64 [N], dots in the colours of their classes; None: pseudo points.
        radius: pixels, a thin pale rim included.
    """
    sheet = Image.new("RGBA", (picture.width * _FINE, picture.height * _FINE), (*_PAPER, 0))
    draw = ImageDraw.Draw(sheet)
    colours = [_PSEUDO] * len(points) if labels is None else [_STRONG[label] for label in labels.tolist()]
    for (x, y), colour in zip(points.tolist(), colours, strict=True):
        centre = ((x / SPAN + 1) / 2 * sheet.width, (1 - y / SPAN) / 2 * sheet.height)
        _dot(draw, centre, radius * _FINE, colour)
    copy = picture.convert("RGBA")
    copy.alpha_composite(sheet.resize(picture.size, Image.Resampling.BOX))
    return copy.convert("RGB")


def strip(panels: Sequence[Panel]) -> bytes:
    """A PNG of panels side by side on white, a legend below."""
    side = panels[0].picture.width
    width = 2 * _MARGIN + len(panels) * side + (len(panels) - 1) * _GAP
    sheet = Image.new("RGB", (width, _HEAD + side + _FOOT), _PAPER)
    for column, panel in enumerate(panels):
        sheet.paste(_labelled(panel), (_MARGIN + column * (side + _GAP), 0))
    _legend(sheet, _HEAD + side + _FOOT // 2 + 1)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def animation(panels: Sequence[Panel], milliseconds: int) -> bytes:
    """A GIF that runs for ever; its first and last picture stay for longer."""
    frames = [_padded(_labelled(panel)) for panel in panels]
    palette = _palette()
    reduced = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    durations = [milliseconds] * len(frames)
    durations[0], durations[-1] = 10 * milliseconds, 25 * milliseconds
    buffer = io.BytesIO()
    reduced[0].save(buffer, "GIF", save_all=True, append_images=reduced[1:], duration=durations, loop=0, optimize=True)
    return buffer.getvalue()


def _palette() -> Image.Image:
    """The flat colours as they are, and their blends at the edges of lines, letters and dots."""
    flat = (_PAPER, *_PALE)
    pairs = [(ground, sign) for sign in (_INK, _PSEUDO) for ground in flat]
    pairs += [(_PAPER, _GREY), *zip(_PALE, _PALE[1:] + _PALE[:1], strict=True)]
    blends = [
        tuple(round(a + share * (b - a)) for a, b in zip(ground, sign, strict=True))
        for ground, sign in pairs
        for share in (0.25, 0.5, 0.75)
    ]
    colours = (*flat, _INK, _PSEUDO, _GREY, _FRAME, *blends)
    image = Image.new("P", (1, 1))
    image.putpalette([level for colour in colours for level in colour])
    return image


def _distances(net: nn.Module, side: int) -> Floats:
    """How many pixels inside a class's region a pixel is (outside: negative), to first order, [K, side, side]."""
    with torch.no_grad():
        logits = net(grid(side)).double().numpy().T.reshape(-1, side, side)
    others = [np.delete(logits, cls, axis=0).max(0) for cls in range(len(logits))]
    margins = logits - np.stack(others)
    down, right = np.gradient(margins, axis=(1, 2))
    return margins / np.maximum(np.hypot(down, right), 1e-12)


def _dot(draw: ImageDraw.ImageDraw, centre: tuple[float, float], radius: float, colour: tuple[int, int, int]) -> None:
    for reach, fill in ((radius, (*_PAPER, 255)), (radius * 0.78, (*colour, 255))):
        box = (centre[0] - reach, centre[1] - reach, centre[0] + reach, centre[1] + reach)
        draw.ellipse(box, fill=fill)


def _labelled(panel: Panel) -> Image.Image:
    side = panel.picture.width
    sheet = Image.new("RGB", (side, _HEAD + side), _PAPER)
    sheet.paste(panel.picture, (0, _HEAD))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(_FONT)
    draw.rectangle((0, _HEAD, side - 1, _HEAD + side - 1), outline=_FRAME)
    draw.text((1, _HEAD - 8), panel.left, fill=_INK, font=font, anchor="ls")
    draw.text((side - 1, _HEAD - 8), panel.right, fill=_GREY, font=font, anchor="rs")
    return sheet


def _padded(picture: Image.Image) -> Image.Image:
    sheet = Image.new("RGB", (picture.width + 2 * _MARGIN, picture.height + _MARGIN), _PAPER)
    sheet.paste(picture, (_MARGIN, 0))
    return sheet


def _legend(sheet: Image.Image, middle: int) -> None:
    """What the signs mean, in one line."""
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(_FONT - 2)
    x = _MARGIN
    for colour in _PALE:
        draw.rectangle((x, middle - 8, x + 15, middle + 7), fill=colour, outline=_FRAME)
        x += 19
    x = _word(draw, x + 5, middle, "the teacher's regions", font)
    draw.line((x, middle, x + 26, middle), fill=_INK, width=3)
    x = _word(draw, x + 35, middle, "the student's boundaries", font)
    sign = crowd(Image.new("RGB", (16, 16), _PAPER), torch.zeros(1, 2), None, 6.0)
    sheet.paste(sign, (x, middle - 8))
    x = _word(draw, x + 24, middle, "pseudo points", font)
    x = _word(draw, x, middle, "%  of the plane on which both agree", font)
    _word(draw, x, middle, "student, n: after n rounds", font)


def _word(draw: ImageDraw.ImageDraw, x: int, middle: int, text: str, font: Font) -> int:
    """Write from `x` on; returns where the next sign begins."""
    draw.text((x, middle), text, fill=_GREY, font=font, anchor="lm")
    return x + round(font.getlength(text)) + 34
