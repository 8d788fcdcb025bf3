"""PNG as we write it: 8 bit grey or RGB, no filter, deflate's stored blocks.

Nothing is compressed, on purpose: the bytes depend on the pixels alone and on no version of zlib, every image of a
dataset has the same length, and reading needs no inflate. The price, with tar's headers counted in: a shard of smooth
32x32 photographs is a fifth larger than with deflate, one of noisy images hardly.
"""

import struct
import zlib
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["COLOUR_TYPES", "IEND", "SIGNATURE", "PngLayout", "encode_png", "ihdr", "layout"]

Array = NDArray[np.uint8]

SIGNATURE = b"\x89PNG\r\n\x1a\n"
COLOUR_TYPES = {1: 0, 3: 2}  # channels to PNG's number: grey, RGB
_ZLIB_HEADER = b"\x78\x01"
_BLOCK = 65535  # the most that one stored block holds


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


IEND = _chunk(b"IEND", b"")


class PngLayout(NamedTuple):
    """Where everything stands in a file; the same for every image of one shape."""

    head: bytes  # signature, IHDR, and IDAT up to and including the zlib header
    blocks: tuple[tuple[bytes, int], ...]  # per stored block: its header, the number of raw bytes that follow
    raw: int  # filter bytes and pixels
    length: int  # of the file


def ihdr(channels: int, size: int) -> bytes:
    """The 13 bytes of the only header allowed: square, 8 bit, not interlaced."""
    return struct.pack(">IIBBBBB", size, size, 8, COLOUR_TYPES[channels], 0, 0, 0)


@lru_cache(maxsize=8)
def layout(channels: int, size: int) -> PngLayout:
    """The layout for [channels, size, size] images."""
    raw = size * (1 + size * channels)
    starts = range(0, raw, _BLOCK)
    lengths = [min(_BLOCK, raw - start) for start in starts]
    blocks = tuple(
        (struct.pack("<BHH", index == len(lengths) - 1, length, length ^ 0xFFFF), length)
        for index, length in enumerate(lengths)
    )
    stream = len(_ZLIB_HEADER) + raw + 5 * len(blocks) + 4
    head = SIGNATURE + _chunk(b"IHDR", ihdr(channels, size)) + struct.pack(">I", stream) + b"IDAT" + _ZLIB_HEADER
    return PngLayout(head, blocks, raw, len(head) - len(_ZLIB_HEADER) + stream + 4 + len(IEND))


def encode_png(image: Array) -> bytes:
    """A [C, H, W] uint8 image with H == W and 1 or 3 channels as a PNG file."""
    channels, size, _ = image.shape
    plan = layout(channels, size)
    rows = np.zeros((size, 1 + size * channels), np.uint8)  # each row begins with filter type 0
    rows[:, 1:] = image.transpose(1, 2, 0).reshape(size, -1)
    raw = rows.tobytes()
    parts = [plan.head]
    start = 0
    for header, length in plan.blocks:
        parts += [header, raw[start : start + length]]
        start += length
    parts.append(struct.pack(">I", zlib.adler32(raw)))
    body = b"".join(parts)
    checked = zlib.crc32(memoryview(body)[len(plan.head) - len(_ZLIB_HEADER) - 4 :])  # from the letters IDAT on
    return body + struct.pack(">I", checked) + IEND
