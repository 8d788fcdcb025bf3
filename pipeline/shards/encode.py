"""Samples to the bytes of one shard; the same samples give the same bytes on every machine."""

import io
import struct
import zlib
from functools import partial
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..core.errors import ShardError
from .layout import COLOUR_TYPES, IEND, MODE, Encoding, Split, key_of, npy_header, png_layout

__all__ = ["Arrays", "check_values", "encode_png", "encode_shard"]

_SUM_TOLERANCE = 1e-3
_ONE = 0x3C00  # 1.0 in float16; the bit patterns 0..ONE are exactly the values in [0, 1]
_DTYPES = {"png": torch.uint8, "npy": torch.float16}


class Arrays(NamedTuple):
    """Samples as they are stored."""

    images: NDArray[np.uint8 | np.float16]  # [N, C, H, W] uint8 (png) or float16 in [0, 1] (npy)
    logits: NDArray[np.float32]  # [N, K]
    cls: NDArray[np.int64]  # [N]
    targets: NDArray[np.float32] | None  # [N, K]; None when not stored


def encode_shard(
    images: Tensor,
    logits: Tensor,
    targets: Tensor | None,
    cls: Tensor,
    encoding: Encoding,
    split: Split,
    index: int,
) -> bytes:
    """Encode one shard as a USTAR archive in the WebDataset layout.

    Args:
        images: [N, C, H, W] as stored: uint8 for ``png`` (1 or 3 channels, square), float16 in [0, 1] for ``npy``.
        logits: [N, K] float32, the teacher's raw answer to these images.
        targets: [N, K] float32, rows sum to 1, or None when they are not stored.
        cls: [N] int64 in [0, K).
        encoding: how images are stored.
        split: the shard's split.
        index: the shard's number within its split.

    Returns:
        The file's content. No time, no user: equal samples give equal bytes.

    Raises:
        ShardError: samples that no reader would accept.
    """
    from webdataset.writer import TarWriter  # here: reading needs none of it

    where = f"{split} shard {index}"
    _check_shapes(where, images, logits, targets, cls, encoding)
    stored = Arrays(_numpy(images), _numpy(logits), _numpy(cls), None if targets is None else _numpy(targets))
    if encoding == "npy":
        stored = stored._replace(images=stored.images + np.float16(0))  # -0.0 to 0.0: one bit pattern per value
    check_values(stored, key_of(split, index, 0)[:-5], where)
    members: dict[str, NDArray[Any]] = {"logits.npy": stored.logits}
    members |= {} if stored.targets is None else {"target.npy": stored.targets}
    members |= {"npy": stored.images} if encoding == "npy" else {}
    stream = io.BytesIO()
    with TarWriter(stream, user="", group="", mode=MODE, mtime=0, encoder=False) as tar:
        for number, label in enumerate(cast(list[int], cls.tolist())):
            sample: dict[str, str | bytes] = {name: _npy(array[number]) for name, array in members.items()}
            if encoding == "png":
                sample["png"] = encode_png(cast(NDArray[np.uint8], stored.images[number]))
            tar.write(sample | {"__key__": key_of(split, index, number), "cls": str(label).encode()})
    return stream.getvalue()


def encode_png(image: NDArray[np.uint8]) -> bytes:
    """A [C, H, W] uint8 image with H == W and 1 or 3 channels as a PNG file."""
    channels, size, _ = image.shape
    plan = png_layout(channels, size)
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
    return body + struct.pack(">I", zlib.crc32(memoryview(body)[plan.letters :])) + IEND


def check_values(arrays: Arrays, keys: str, where: str) -> None:
    """Refuse numbers that no shard holds, before they are written and after they are read.

    Args:
        arrays: of the right shapes.
        keys: what the samples' keys begin with; a sample's number follows in five digits.
        where: the shard, for messages.

    Raises:
        ShardError: names the first sample that is wrong.
    """
    images, logits, cls, targets = arrays
    check = partial(demand, where, keys)
    if images.dtype == np.float16:
        check("npy", images.view(np.uint16) <= _ONE, "values outside [0, 1] or not finite")
    check("logits.npy", np.isfinite(logits), "values that are not finite")
    check("cls", (cls >= 0) & (cls < logits.shape[1]), f"label is not a whole number in [0, {logits.shape[1]})")
    if targets is not None:
        sums = np.abs(targets.sum(1, dtype=np.float64) - 1) <= _SUM_TOLERANCE
        check("target.npy", (targets >= 0) & sums[:, None], "not a distribution: numbers >= 0 that sum to 1")
        check("cls", targets[np.arange(len(cls)), cls] == targets.max(1), "not the largest entry of the target")


def demand(where: str, keys: str, member: str, good: NDArray[np.bool_], what: str) -> None:
    """Check one member of all samples.

    Args:
        where: the shard.
        keys: what the samples' keys begin with.
        member: its extension.
        good: [N, ...], whether it is as it must be.
        what: what is wrong where it is not.

    Raises:
        ShardError: names the shard and the first member that is wrong.
    """
    if not good.all():
        first = int(good.reshape(len(good), -1).all(1).argmin())
        raise ShardError(f"{where}: {keys}{first:05d}.{member}: {what}")


def _numpy(values: Tensor) -> NDArray[Any]:
    return values.detach().cpu().contiguous().numpy()


def _npy(array: NDArray[Any]) -> bytes:
    return npy_header(array.dtype.name, array.shape) + array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def _check_shapes(
    where: str, images: Tensor, logits: Tensor, targets: Tensor | None, cls: Tensor, encoding: Encoding
) -> None:
    count = len(images)
    if images.ndim != 4 or images.shape[2] != images.shape[3] or images.dtype != _DTYPES[encoding] or count == 0:
        raise ShardError(
            f"{where}: images are {images.dtype} {list(images.shape)}, "
            f"expected {_DTYPES[encoding]} [N, C, S, S] for {encoding}"
        )
    if encoding == "png" and images.shape[1] not in COLOUR_TYPES:
        raise ShardError(f"{where}: png holds 1 or 3 channels, not {images.shape[1]}; set shards.encoding to npy")
    classes = logits.shape[1] if logits.ndim == 2 else 0
    for name, rows in (("logits", logits), ("targets", targets)):
        if rows is not None and (rows.shape != (count, classes) or rows.dtype != torch.float32 or classes < 2):
            raise ShardError(f"{where}: {name} are {rows.dtype} {list(rows.shape)}, expected float32 [{count}, K >= 2]")
    if cls.shape != (count,) or cls.dtype != torch.int64:
        raise ShardError(f"{where}: cls is {cls.dtype} {list(cls.shape)}, expected int64 [{count}]")
