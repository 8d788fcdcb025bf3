"""Restricted decoders: each takes the bytes of one member and the only thing it may be."""

import io
import re
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from pipeline.core.errors import ShardError
from pipeline.shards.npy import MAGIC, npy_text
from pipeline.shards.png import SIGNATURE, ihdr

__all__ = ["decode_cls", "decode_npy", "decode_png"]

_INTEGER = re.compile(rb"0|[1-9][0-9]{0,8}")


def decode_cls(payload: memoryview, classes: int, where: str) -> int:
    """A class number in plain decimal.

    Raises:
        ShardError: signs, spaces, other notations, or outside [0, classes).
    """
    text = bytes(payload[:20])  # longer than any number that fits
    if _INTEGER.fullmatch(text) is None or int(text) >= classes:
        raise ShardError(f"{where}: label {repr(text)[1:]} is not a whole number in [0, {classes})")
    return int(text)


def decode_npy(payload: memoryview, dtype: str, shape: tuple[int, ...], where: str) -> NDArray[np.generic]:
    """An array of exactly this dtype and shape; nothing is allocated on the file's word.

    Raises:
        ShardError: another version, dtype, order, shape or length.
    """
    text = npy_text(dtype, shape)
    start = len(MAGIC) + 2
    if len(payload) < start or bytes(payload[: len(MAGIC)]) != MAGIC:
        raise ShardError(f"{where}: expected a version 1.0 npy file")
    end = start + int.from_bytes(payload[len(MAGIC) : start], "little")
    found = bytes(payload[start : min(end, start + 1024)])
    if end > start + 1024 or found[-1:] != b"\n" or found[:-1].rstrip(b" ") != text:
        raise ShardError(f"{where}: npy header {repr(found[:100].strip())[1:]}, expected {repr(text)[1:]}")
    expected = np.dtype(dtype).itemsize * int(np.prod(shape))
    if len(payload) - end != expected:
        raise ShardError(f"{where}: {len(payload) - end} bytes of numbers, expected {expected}")
    array: NDArray[np.generic] = np.frombuffer(payload[end:], np.dtype(dtype).newbyteorder("<"))
    return array.reshape(shape)


def decode_png(payload: memoryview, channels: int, size: int, where: str) -> NDArray[np.uint8]:
    """A [channels, size, size] uint8 image; size and mode are checked before anything is decoded.

    Raises:
        ShardError: not a PNG, damaged, of another size or mode, or with chunks besides IHDR, IDAT and IEND.
    """
    stream = b"".join(_image_data(payload, channels, size, where))
    raw = size * (1 + size * channels)
    inflate = zlib.decompressobj()
    try:
        pixels = len(inflate.decompress(stream, raw + 1))  # counted before Pillow may fill what is missing
    except zlib.error as error:
        raise ShardError(f"{where}: damaged PNG: {error}") from None
    if pixels != raw or not inflate.eof or inflate.unused_data:
        raise ShardError(f"{where}: damaged PNG: its data is not {raw} bytes of pixels")
    try:
        with Image.open(io.BytesIO(payload), formats=["PNG"]) as image:
            array = np.asarray(image)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise ShardError(f"{where}: damaged PNG: {' '.join(str(error).split())[:100]}") from None
    return np.ascontiguousarray(array.reshape(size, size, channels).transpose(2, 0, 1))


def _image_data(payload: memoryview, channels: int, size: int, where: str) -> Iterator[memoryview]:
    """The IDAT chunks of a PNG that is IHDR, IDAT..., IEND and nothing else."""
    if bytes(payload[: len(SIGNATURE)]) != SIGNATURE:
        raise ShardError(f"{where}: not a PNG")
    chunks = list(_chunks(payload, where))
    kinds = [kind for kind, _ in chunks]
    if kinds[:1] != [b"IHDR"] or bytes(chunks[0][1][:14]) != ihdr(channels, size):
        raise ShardError(f"{where}: {_describe(chunks)}, expected {size}x{size}, {channels} channel(s) of 8 bit")
    if kinds[-1:] != [b"IEND"] or len(chunks[-1][1]) or len(kinds) < 3 or {*kinds[1:-1]} != {b"IDAT"}:
        names = " ".join(repr(kind)[2:-1] for kind in kinds[:8])
        raise ShardError(f"{where}: PNG chunks {names}, expected IHDR IDAT IEND")
    yield from (content for _, content in chunks[1:-1])


def _chunks(payload: memoryview, where: str) -> Iterator[tuple[bytes, memoryview]]:
    offset = len(SIGNATURE)
    while offset < len(payload):
        length = int.from_bytes(payload[offset : offset + 4])
        kind, content = bytes(payload[offset + 4 : offset + 8]), payload[offset + 8 : offset + 8 + length]
        end = offset + 12 + length
        if end > len(payload):
            raise ShardError(f"{where}: truncated PNG")
        if zlib.crc32(payload[offset + 4 : end - 4]) != int.from_bytes(payload[end - 4 : end]):
            raise ShardError(f"{where}: damaged PNG: checksum of chunk {repr(kind)[1:]}")
        yield kind, content
        offset = end
        if kind == b"IEND" and offset < len(payload):
            raise ShardError(f"{where}: {len(payload) - offset} bytes after the end of the PNG")


def _describe(chunks: list[tuple[bytes, memoryview]]) -> str:
    if not chunks or chunks[0][0] != b"IHDR" or len(chunks[0][1]) != 13:
        return "a PNG without a header"
    width, height, bits, colour = struct.unpack(">IIBB", chunks[0][1][:10])
    return f"a PNG of {width}x{height} ({width * height / 1e6:.4g} Mpx), {bits} bit, colour type {colour}"
