"""Samples to the bytes of one shard; the same samples give the same bytes on every machine."""

import io
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from webdataset.writer import TarWriter

from pipeline.core.errors import ShardError
from pipeline.shards.npy import npy_header
from pipeline.shards.png import COLOUR_TYPES, encode_png
from pipeline.shards.schema import Encoding, Split, key_of
from pipeline.shards.tar import MODE

__all__ = ["encode_shard"]

_SUM_TOLERANCE = 1e-3
_DTYPES = {"png": torch.uint8, "npy": torch.float16}


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
    where = f"{split} shard {index}"
    _check(where, images, logits, targets, cls, encoding)
    pixels = _numpy(images)
    arrays = {"logits.npy": _numpy(logits)} | ({} if targets is None else {"target.npy": _numpy(targets)})
    if encoding == "npy":
        arrays["npy"] = pixels + np.float16(0)  # turns -0.0 into 0.0: one bit pattern per value
    stream = io.BytesIO()
    with TarWriter(stream, user="", group="", mode=MODE, mtime=0, encoder=False) as tar:
        for number, label in enumerate(cast(list[int], cls.tolist())):
            sample: dict[str, str | bytes] = {name: _npy(array[number]) for name, array in arrays.items()}
            if encoding == "png":
                sample["png"] = encode_png(pixels[number])
            tar.write(sample | {"__key__": key_of(split, index, number), "cls": str(label).encode()})
    return stream.getvalue()


def _numpy(values: Tensor) -> NDArray[Any]:
    return values.detach().cpu().contiguous().numpy()


def _npy(array: NDArray[Any]) -> bytes:
    return npy_header(array.dtype.name, array.shape) + array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def _check(where: str, images: Tensor, logits: Tensor, targets: Tensor | None, cls: Tensor, encoding: Encoding) -> None:
    """Refuse what `pipeline.shards.reader` would refuse."""
    count = len(images)
    if images.ndim != 4 or images.shape[2] != images.shape[3] or images.dtype != _DTYPES[encoding] or count == 0:
        raise ShardError(
            f"{where}: images are {images.dtype} {list(images.shape)}, "
            f"expected {_DTYPES[encoding]} [N, C, S, S] for {encoding}"
        )
    if encoding == "png" and images.shape[1] not in COLOUR_TYPES:
        raise ShardError(f"{where}: png holds 1 or 3 channels, not {images.shape[1]}; set shards.encoding to npy")
    if encoding == "npy" and not bool(((images >= 0) & (images <= 1)).all()):
        raise ShardError(f"{where}: image values outside [0, 1]")
    classes = logits.shape[1] if logits.ndim == 2 else 0
    for name, rows in (("logits", logits), ("targets", targets)):
        if rows is not None:
            _check_rows(where, name, rows, (count, classes))
    if targets is not None and bool(((targets.double().sum(1) - 1).abs() > _SUM_TOLERANCE).any() | (targets < 0).any()):
        raise ShardError(f"{where}: targets are no distributions; rows must be >= 0 and sum to 1")
    if cls.shape != (count,) or cls.dtype != torch.int64 or not bool(((cls >= 0) & (cls < classes)).all()):
        raise ShardError(f"{where}: cls must be int64 [{count}] in [0, {classes})")


def _check_rows(where: str, name: str, rows: Tensor, shape: tuple[int, int]) -> None:
    if rows.shape != shape or rows.dtype != torch.float32 or shape[1] < 2 or not bool(torch.isfinite(rows).all()):
        raise ShardError(
            f"{where}: {name} are {rows.dtype} {list(rows.shape)}, expected finite float32 [{shape[0]}, K >= 2]"
        )
