"""Small pieces of drawing that pictures and matrices share; equal input gives equal bytes."""

import base64
import io
import unicodedata

from PIL import Image, ImageDraw, ImageFont

__all__ = ["data_uri", "draw_label", "png_bytes", "short_label"]

_INK = (40, 40, 40)


def png_bytes(image: Image.Image) -> bytes:
    """A PNG file's content."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def data_uri(png: bytes) -> str:
    """A PNG as a `data:` address, so that the page needs no other file."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def short_label(text: str, length: int = 16) -> str:
    """One printable line of at most `length` characters, whatever a class is called."""
    line = " ".join("".join(c if unicodedata.category(c)[0] != "C" else " " for c in text).split())
    return line if len(line) <= length else line[: length - 1] + "…"


def draw_label(sheet: Image.Image, text: str, right: int, middle: int) -> None:
    """Write a label that ends at x = `right` and is centred on y = `middle`, in pixels."""
    font = ImageFont.load_default(12)
    ImageDraw.Draw(sheet).text((right, middle), short_label(text), fill=_INK, font=font, anchor="rm")
