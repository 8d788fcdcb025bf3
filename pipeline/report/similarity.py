"""Which classes a teacher holds for alike: cosine similarities of the rows of its final linear layer."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pipeline.report.drawing import draw_label, png_bytes, short_label

__all__ = ["class_similarity", "colours", "pixels_png", "scale_of", "similarity_png"]

_WARM, _COOL = (201, 90, 30), (36, 99, 178)  # alike, opposed; legible on light and dark paper
_LABELLED = 40  # classes; more names would not be legible
_SIDE = 640  # pixels, about, of the picture's square
_MARGIN = 120  # pixels for class names


def class_similarity(weights: NDArray[np.floating]) -> NDArray[np.float64]:
    """Cosine similarity of the rows of a head's weights.

    Nayak et al., "Zero-Shot Knowledge Distillation in Deep Networks" (2019), equation 2.

    Args:
        weights: [K, d].

    Returns:
        [K, K], symmetric, 1 on the diagonal; a row of zeros is similar to nothing (0), itself included.
    """
    rows = np.asarray(weights, dtype=np.float64)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    unit = np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)
    return np.clip(unit @ unit.T, -1.0, 1.0)


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
    cell, margin = max(1, _SIDE // count), _MARGIN if count <= _LABELLED else 8
    square = Image.fromarray(colours(similarity)).resize((cell * count, cell * count), Image.Resampling.NEAREST)
    sheet = Image.new("RGBA", (margin + cell * count + 8, margin + cell * count + 8), "white")
    sheet.alpha_composite(square, (margin, margin))
    if count <= _LABELLED:
        for index, name in enumerate(classes):
            middle = margin + index * cell + cell // 2
            draw_label(sheet, name, right=margin - 8, middle=middle)
            sheet.alpha_composite(_upright(name), (middle - 8, 0))
    return png_bytes(sheet.convert("RGB"))


def _upright(name: str) -> Image.Image:
    """A column heading that reads upwards, its end at the bottom edge."""
    label = Image.new("RGBA", (_MARGIN - 8, 16))
    font = ImageFont.load_default(12)
    ImageDraw.Draw(label).text((0, 8), short_label(name), fill=(40, 40, 40), font=font, anchor="lm")
    return label.transpose(Image.Transpose.ROTATE_90)
