"""The quick way to read a shard: exactly the bytes our own encoder writes, checked and decoded for all samples at once.

Every member of such a shard has its one possible header and a fixed place. `read_regular` builds the headers that must
be there and compares; whatever differs by a byte is left to the general reader, which accepts it or says what is wrong.
"""

import tarfile
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.shards.npy import npy_header
from pipeline.shards.png import IEND, PngLayout, layout
from pipeline.shards.schema import FieldSpec, Split, key_of
from pipeline.shards.tar import BLOCK, MODE
from pipeline.shards.values import Arrays

__all__ = ["ShardShape", "read_regular"]

Bytes = NDArray[np.uint8]

_RECORD = 20 * BLOCK  # archives are filled up to a multiple of this
_CLS_DIGITS = 6
_SIZE = slice(124, 136)
_CHECKSUM = slice(148, 156)


@dataclass(frozen=True)
class ShardShape:
    """What the manifest says about one shard's samples."""

    split: Split
    index: int
    samples: int
    fields: dict[str, FieldSpec]

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return self.fields["logits.npy"].shape[0]

    @property
    def image(self) -> str:
        """The image member's extension."""
        return "png" if "png" in self.fields else "npy"

    @property
    def keys(self) -> str:
        """What every key begins with."""
        return key_of(self.split, self.index, 0)[:-5]


def read_regular(content: bytes | bytearray, shape: ShardShape) -> Arrays | None:
    """Decode a shard that is laid out as `encode_shard` does it; None when it is not, to the byte.

    Args:
        content: the whole file.
        shape: what it must hold.
    """
    sizes = {name: _member_size(name, spec) for name, spec in sorted(shape.fields.items())}
    stride = sum(BLOCK + size + -size % BLOCK for size in sizes.values())
    used = shape.samples * stride
    total = used + 2 * BLOCK
    buffer = np.frombuffer(content, np.uint8)
    if len(buffer) != total + -total % _RECORD or buffer[used:].any():
        return None
    rows = buffer[:used].reshape(shape.samples, stride)
    found: dict[str, NDArray[Any]] = {}
    offset = 0
    for name, size in sizes.items():
        end = offset + BLOCK + size + -size % BLOCK
        array = _member(rows[:, offset:end], name, size, shape)
        if array is None:
            return None
        found[name] = array
        offset = end
    return Arrays(found[shape.image], found["logits.npy"], found["cls"], found.get("target.npy"))


def _member_size(name: str, spec: FieldSpec) -> int:
    if name == "cls":
        return 1  # the digits vary in number, never the blocks they take
    if name == "png":
        return layout(spec.shape[0], spec.shape[1]).length
    return len(npy_header(spec.dtype, spec.shape)) + np.dtype(spec.dtype).itemsize * int(np.prod(spec.shape))


def _member(rows: Bytes, name: str, size: int, shape: ShardShape) -> NDArray[Any] | None:
    """One member of all samples, header to padding, as an array; None when a byte is not as it must be."""
    headers, payload = rows[:, :BLOCK], rows[:, BLOCK:]
    # A label's length is the last digit of its size field; all else in the header follows from it.
    sizes = headers[:, 134] - np.uint8(48) if name == "cls" else None
    if not np.array_equal(headers, _headers(name, size, sizes, shape)):
        return None
    if sizes is not None:
        return _labels(payload, sizes, shape.classes)
    if payload[:, size:].any():
        return None
    spec = shape.fields[name]
    return _pngs(payload[:, :size], spec) if name == "png" else _arrays(payload[:, :size], spec)


def _headers(name: str, size: int, sizes: Bytes | None, shape: ShardShape) -> Bytes:
    """The headers that this member must have in every sample, [N, 512]."""
    info = tarfile.TarInfo(f"{shape.keys}00000.{name}")
    info.size, info.mode, info.mtime = size, MODE, 0
    headers = np.tile(np.frombuffer(info.tobuf(tarfile.USTAR_FORMAT), np.uint8), (shape.samples, 1))
    start = len(shape.keys)
    headers[:, start : start + 5] = _digits(np.arange(shape.samples), 5, 10)
    if sizes is not None:
        headers[:, 134] = sizes + np.uint8(48)
    headers[:, _CHECKSUM] = 32
    headers[:, 148:154] = _digits(headers.sum(1, dtype=np.int64), 6, 8)
    headers[:, 154] = 0
    return headers


def _digits(numbers: NDArray[np.int64], width: int, base: int) -> Bytes:
    """Numbers [N] as ASCII digits [N, width]."""
    powers = base ** np.arange(width - 1, -1, -1)
    return (numbers[:, None] // powers % base + 48).astype(np.uint8)


def _labels(payload: Bytes, sizes: Bytes, classes: int) -> NDArray[np.int64] | None:
    """Plain decimal numbers below `classes`, without leading zeros, followed by zeros."""
    columns = payload[:, :_CLS_DIGITS]
    inside = np.arange(_CLS_DIGITS) < sizes[:, None]
    digits = (columns >= 48) & (columns <= 57)
    regular = (sizes >= 1) & (sizes <= _CLS_DIGITS) & np.where(inside, digits, columns == 0).all(1)
    regular &= (columns[:, 0] != 48) | (sizes == 1)
    if not regular.all() or payload[:, _CLS_DIGITS:].any():
        return None
    values = np.zeros(len(payload), np.int64)
    for column in range(_CLS_DIGITS):
        values = np.where(inside[:, column], values * 10 + columns[:, column] - 48, values)
    return values if int(values.max()) < classes else None


def _arrays(payload: Bytes, spec: FieldSpec) -> NDArray[Any] | None:
    head = np.frombuffer(npy_header(spec.dtype, spec.shape), np.uint8)
    if (payload[:, : len(head)] != head).any():
        return None
    numbers = payload[:, len(head) :].copy().view(np.dtype(spec.dtype).newbyteorder("<"))
    return numbers.reshape(len(payload), *spec.shape)


def _pngs(payload: Bytes, spec: FieldSpec) -> NDArray[np.uint8] | None:
    channels, size, _ = spec.shape
    plan = layout(channels, size)
    parts: list[Bytes] = []
    offset = len(plan.head)
    if (payload[:, :offset] != np.frombuffer(plan.head, np.uint8)).any():
        return None
    for header, length in plan.blocks:
        if (payload[:, offset : offset + 5] != np.frombuffer(header, np.uint8)).any():
            return None
        offset += 5 + length
        parts.append(payload[:, offset - length : offset])
    raw = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
    lines = raw.reshape(len(payload), size, 1 + size * channels)
    tail = np.frombuffer(IEND, np.uint8)
    if lines[:, :, 0].any() or (payload[:, -len(tail) :] != tail).any() or not _sums_fit(payload, parts, offset, plan):
        return None
    return lines[:, :, 1:].reshape(-1, size, size, channels).transpose(0, 3, 1, 2).copy()


def _sums_fit(payload: Bytes, parts: list[Bytes], offset: int, plan: PngLayout) -> bool:
    """Adler-32 of the raw data and CRC-32 of the chunk, in each file."""
    sums = np.ascontiguousarray(payload[:, offset : offset + 8]).view(">u4").tolist()
    start = plan.head.index(b"IDAT")
    for number, (adler, crc) in enumerate(sums):
        found = 1
        for part in parts:
            found = zlib.adler32(part[number], found)  # pyright: ignore[reportArgumentType]
        if found != adler or zlib.crc32(payload[number, start : offset + 4]) != crc:  # pyright: ignore[reportArgumentType]
            return False
    return True
