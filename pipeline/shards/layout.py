"""The one form of a shard, byte by byte: names, npy headers, PNG, tar headers, and where every member stands.

Writer and reader share it. Given the number of samples, the dtypes and the shapes, every byte of a shard that is not
a pixel, a number or a checksum is known beforehand, and so is the shard's length.

Images as ``png`` are 8 bit grey or RGB without a filter, in deflate's stored blocks. Nothing is compressed, on purpose:
the bytes depend on the pixels alone and on no version of zlib, every image of a dataset has the same length, and
reading needs no inflate. The price, with tar's headers counted in: a shard of smooth 32x32 photographs is a fifth
larger than with deflate, one of noisy images hardly. Arrays are NumPy's .npy format, version 1.0, C order, little
endian. Headers are written by hand, so that the bytes stay the same whatever NumPy writes next.
"""

import math
import struct
import zlib
from collections.abc import Iterable
from functools import lru_cache
from typing import Literal, NamedTuple

__all__ = ["BLOCK", "IEND", "MODE", "Encoding", "PngLayout", "Split", "archive_bytes", "key_of", "member_bytes",
           "npy_header", "png_layout", "shard_name", "tar_header"]  # fmt: skip

Split = Literal["train", "holdout"]
Encoding = Literal["png", "npy"]

BLOCK = 512
MODE = 0o644  # of every member
_RECORD = 20 * BLOCK  # archives are filled up with zeros to a multiple of this

_NPY_MAGIC = b"\x93NUMPY\x01\x00"
_CODES = {"float16": "<f2", "float32": "<f4"}
_ITEM_BYTES = {"float16": 2, "float32": 4}
_ALIGNMENT = 64
_GROWTH = 21  # digits that NumPy leaves room for in the first axis

COLOUR_TYPES = {1: 0, 3: 2}  # channels to PNG's number: grey, RGB
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_ZLIB_HEADER = b"\x78\x01"
_STORED = 65535  # the most that one stored block holds
_CHUNK = 12  # length, name and checksum of a PNG chunk


def shard_name(split: Split, index: int) -> str:
    """A shard's file name, such as ``train-00000.tar``."""
    return f"{split}-{index:05d}.tar"


def key_of(split: Split, index: int, sample: int) -> str:
    """A sample's key, unique in its dataset and without a dot, such as ``t00000-00042``."""
    return f"{split[0]}{index:05d}-{sample:05d}"


@lru_cache(maxsize=32)
def npy_header(dtype: str, shape: tuple[int, ...]) -> bytes:
    """Everything before the numbers of a float16 or float32 array: magic, version, length, dictionary, padding."""
    text = f"{{'descr': '{_CODES[dtype]}', 'fortran_order': False, 'shape': {shape!r}, }}".encode()
    text += b" " * (_GROWTH - len(str(shape[0])))
    length = len(_NPY_MAGIC) + 2 + len(text) + 1
    text += b" " * (-length % _ALIGNMENT) + b"\n"
    return _NPY_MAGIC + struct.pack("<H", len(text)) + text


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


IEND = _chunk(b"IEND", b"")


class PngLayout(NamedTuple):
    """Where everything stands in a picture; the same for every image of one shape."""

    head: bytes  # signature, IHDR, and IDAT up to and including the zlib header
    letters: int  # where "IDAT" stands: its checksum begins there
    blocks: tuple[tuple[bytes, int], ...]  # per stored block: its header, the number of raw bytes that follow
    length: int  # of the file


@lru_cache(maxsize=8)
def png_layout(channels: int, size: int) -> PngLayout:
    """The layout for [channels, size, size] images, square, 8 bit, not interlaced."""
    raw = size * (1 + size * channels)
    lengths = [min(_STORED, raw - start) for start in range(0, raw, _STORED)]
    blocks = tuple(
        (struct.pack("<BHH", index == len(lengths) - 1, length, length ^ 0xFFFF), length)
        for index, length in enumerate(lengths)
    )
    stream = len(_ZLIB_HEADER) + raw + 5 * len(blocks) + 4
    ihdr = struct.pack(">IIBBBBB", size, size, 8, COLOUR_TYPES[channels], 0, 0, 0)
    before = _SIGNATURE + _chunk(b"IHDR", ihdr) + struct.pack(">I", stream)
    length = len(before) + len(b"IDAT") + stream + 4 + len(IEND)
    return PngLayout(before + b"IDAT" + _ZLIB_HEADER, len(before), blocks, length)


def tar_header(name: str, size: int) -> bytes:
    """A member's header: plain USTAR, a regular file, no time, no owner."""
    before = (
        name.encode().ljust(100, b"\0") + b"%07o\0" % MODE + b"0000000\0" * 2 + b"%011o\0" % size + b"0" * 11 + b"\0"
    )
    after = b"0" + bytes(100) + b"ustar\x0000" + bytes(247)
    return before + b"%06o\0 " % (sum(before) + sum(after) + 8 * ord(" ")) + after


def member_bytes(name: str, dtype: str, shape: tuple[int, ...]) -> int:
    """The length of one member's content, by its extension; a label's digits vary in number, never its blocks."""
    if name == "cls":
        return 1
    if name == "png":
        return png_layout(shape[0], shape[1]).length
    return len(npy_header(dtype, shape)) + _ITEM_BYTES[dtype] * math.prod(shape)


def member_blocks(size: int) -> int:
    """Bytes that a member takes in the archive, its header with it."""
    return BLOCK + size + -size % BLOCK


def archive_bytes(samples: int, sizes: Iterable[int]) -> int:
    """The length of a shard whose samples have members of these sizes."""
    total = samples * sum(map(member_blocks, sizes)) + 2 * BLOCK
    return total + -total % _RECORD
