"""Reading a shard: exactly the bytes that `encode_shard` writes, checked and decoded for all samples at once.

A shard has one form (see `layout`): every header is known beforehand and every member has its place. The headers that
must be there are built and compared, checksums are computed anew, padding must be zero; only labels, numbers and
pixels remain to be read. There is no second way: nothing is inflated, unpickled, parsed or skipped, and nothing is
allocated beyond the file's own size.
"""

import zlib
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..core.errors import ShardError
from .encode import Arrays, check_values, demand
from .layout import (
    BLOCK,
    IEND,
    Split,
    archive_bytes,
    key_of,
    member_blocks,
    member_bytes,
    npy_header,
    png_layout,
    tar_header,
)
from .manifest import FieldSpec

__all__ = ["ShardShape", "decode_shard"]

Bytes = NDArray[np.uint8]

_CLS_DIGITS = 6
_SIZE_DIGIT = 134  # the last one of a header's size
_CHECKSUM = slice(148, 156)
# What stands where in a tar header, for messages; the checksum last, since it changes with any of the others.
_PLACES = ((100, 108, "mode"), (108, 116, "uid"), (116, 124, "gid"), (124, 136, "size"), (136, 148, "time"),
           (156, 157, "type"), (157, 257, "link name"), (257, 265, "magic"), (265, 329, "user and group"),
           (329, 345, "device"), (345, 512, "name prefix"), (148, 156, "checksum"))  # fmt: skip


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
    def keys(self) -> str:
        """What every key begins with."""
        return key_of(self.split, self.index, 0)[:-5]

    @property
    def sizes(self) -> dict[str, int]:
        """The members of every sample in their order, with the length of each."""
        return {name: member_bytes(name, spec.dtype, spec.shape) for name, spec in sorted(self.fields.items())}


class _Check(Protocol):
    def __call__(self, good: NDArray[np.bool_], what: str) -> None: ...


def decode_shard(content: bytes | bytearray, shape: ShardShape, where: str) -> Arrays:
    """Decode a shard's bytes.

    Args:
        content: the whole file; comparing its sha256 is left to the caller.
        shape: what it must hold.
        where: the file, for messages.

    Raises:
        ShardError: names the file and the first member that is not as it must be.
    """
    try:
        arrays = _decode(np.frombuffer(content, np.uint8), shape, where)
    except MemoryError:
        raise ShardError(f"{where}: {shape.samples} decoded samples are more than the memory that is free") from None
    check_values(arrays, shape.keys, where)
    return arrays


def _decode(buffer: Bytes, shape: ShardShape, where: str) -> Arrays:
    sizes = shape.sizes
    total = archive_bytes(shape.samples, sizes.values())
    if len(buffer) != total:
        raise ShardError(f"{where}: {len(buffer)} bytes, its {shape.samples} samples take {total}")
    stride = sum(map(member_blocks, sizes.values()))
    used = shape.samples * stride
    rows = buffer[:used].reshape(shape.samples, stride)
    found: dict[str, NDArray[Any]] = {}
    start = 0
    for name, size in sizes.items():
        stop = start + member_blocks(size)
        found[name] = _member(rows[:, start:stop], name, size, shape, where)
        start = stop
    if buffer[used:].any():
        raise ShardError(f"{where}: after the last of {shape.samples} samples: expected nothing but zeros")
    image = found["png"] if "png" in found else found["npy"]
    return Arrays(image, found["logits.npy"], found["cls"], found.get("target.npy"))


def _member(rows: Bytes, name: str, size: int, shape: ShardShape, where: str) -> NDArray[Any]:
    """One member of all samples, header to padding, as an array."""
    headers, payload = rows[:, :BLOCK], rows[:, BLOCK:]
    # A label's length is the last digit of its size; all else in the header follows from it.
    digits = headers[:, _SIZE_DIGIT] - np.uint8(ord("0")) if name == "cls" else None
    expected = _headers(name, size, digits, shape)
    same = (headers == expected).all(1)
    if not same.all():
        first = int(same.argmin())
        problem = _header_problem(headers[first].tobytes(), expected[first].tobytes())
        raise ShardError(f"{where}: {shape.keys}{first:05d}.{name}: {problem}")
    check: _Check = partial(demand, where, shape.keys, name)
    if digits is not None:
        return _labels(payload, digits, shape.classes, check)
    check(payload[:, size:] == 0, "padding is not zero")
    spec = shape.fields[name]
    return (_pngs if name == "png" else _arrays)(payload[:, :size], spec, check)


def _headers(name: str, size: int, digits: Bytes | None, shape: ShardShape) -> Bytes:
    """The headers that this member must have in every sample, [N, 512]."""
    header = np.frombuffer(tar_header(f"{shape.keys}00000.{name}", size), np.uint8).copy()
    header[_CHECKSUM] = ord(" ")
    numbers = _ascii(np.arange(shape.samples), 5, 10)
    sums = header.sum(dtype=np.int64) + (numbers - np.uint8(ord("0"))).sum(1, dtype=np.int64)
    headers = np.tile(header, (shape.samples, 1))
    start = len(shape.keys)
    headers[:, start : start + 5] = numbers
    if digits is not None:
        sums += digits.astype(np.int64) - size
        headers[:, _SIZE_DIGIT] = digits + np.uint8(ord("0"))
    headers[:, 148:154] = _ascii(sums, 6, 8)
    headers[:, 154] = 0
    return headers


def _ascii(numbers: NDArray[np.int64], width: int, base: int) -> Bytes:
    """Numbers [N] as digits [N, width]."""
    powers = base ** np.arange(width - 1, -1, -1)
    return (numbers[:, None] // powers % base + ord("0")).astype(np.uint8)


def _header_problem(found: bytes, expected: bytes) -> str:
    """What is wrong with a tar header."""
    if not any(found):
        return "missing, the archive ends here"
    if found[257:262] != b"ustar":
        return "not USTAR"
    if found[:100] != expected[:100]:
        return f"expected here, found {found[:100].rstrip(bytes(1))!r:.120}"
    start, stop, what = next(place for place in _PLACES if found[slice(*place[:2])] != expected[slice(*place[:2])])
    return f"tar {what} {found[start:stop]!r:.60}, expected {expected[start:stop]!r:.60}"


def _labels(payload: Bytes, digits: Bytes, classes: int, check: _Check) -> NDArray[np.int64]:
    """Plain decimal numbers below `classes`, without leading zeros, followed by zeros."""
    what = f"label is not a whole number in [0, {classes})"
    columns = payload[:, :_CLS_DIGITS]
    inside = np.arange(_CLS_DIGITS) < digits[:, None]
    plain = np.where(inside, (columns >= ord("0")) & (columns <= ord("9")), columns == 0).all(1)
    check(plain & (digits >= 1) & (digits <= _CLS_DIGITS), what)
    check((columns[:, 0] != ord("0")) | (digits == 1), what)
    check(payload[:, _CLS_DIGITS:] == 0, what)
    values = np.zeros(len(payload), np.int64)
    for column in range(_CLS_DIGITS):
        values = np.where(inside[:, column], values * 10 + columns[:, column] - ord("0"), values)
    check(values < classes, what)
    return values


def _arrays(payload: Bytes, spec: FieldSpec, check: _Check) -> NDArray[Any]:
    head = np.frombuffer(npy_header(spec.dtype, spec.shape), np.uint8)
    check(payload[:, : len(head)] == head, f"expected the header of a {spec.dtype} array of shape {spec.shape}")
    numbers = payload[:, len(head) :].copy().view(np.dtype(spec.dtype).newbyteorder("<"))
    return numbers.reshape(len(payload), *spec.shape)


def _pngs(payload: Bytes, spec: FieldSpec, check: _Check) -> Bytes:
    channels, size, _ = spec.shape
    what = f"expected an uncompressed PNG of {size}x{size}, {channels} channel(s) of 8 bit"
    plan = png_layout(channels, size)
    offset = len(plan.head)
    check(payload[:, :offset] == np.frombuffer(plan.head, np.uint8), what)
    parts: list[Bytes] = []
    for header, length in plan.blocks:
        check(payload[:, offset : offset + 5] == np.frombuffer(header, np.uint8), what)
        offset += 5 + length
        parts.append(payload[:, offset - length : offset])
    raw = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
    lines = raw.reshape(len(payload), size, 1 + size * channels)
    check(lines[:, :, 0] == 0, what)
    check(payload[:, offset + 8 :] == np.frombuffer(IEND, np.uint8), what)
    check(
        _sums(payload, raw, plan.letters, offset) == payload[:, offset : offset + 8], "damaged PNG: a checksum differs"
    )
    return lines[:, :, 1:].reshape(-1, size, size, channels).transpose(0, 3, 1, 2).copy()


def _sums(payload: Bytes, raw: Bytes, start: int, stop: int) -> Bytes:
    """Adler-32 of the raw data, then CRC-32 of the chunk with it, as [N, 8] bytes."""
    sums = [
        (zlib.adler32(pixels), zlib.crc32(chunk))  # pyright: ignore[reportArgumentType]
        for pixels, chunk in zip(raw, payload[:, start : stop + 4], strict=True)
    ]
    return np.array(sums, ">u4").view(np.uint8)
