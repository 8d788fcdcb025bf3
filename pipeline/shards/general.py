"""The general way to read a shard: any plain USTAR archive with the right members, one sample after the other."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core.errors import ShardError
from pipeline.shards.decode import decode_cls, decode_npy, decode_png
from pipeline.shards.regular import ShardShape
from pipeline.shards.tar import RawSample, samples
from pipeline.shards.values import Arrays

__all__ = ["read_general"]


def read_general(content: bytes | bytearray, shape: ShardShape, where: str) -> Arrays:
    """Decode a shard member by member.

    Args:
        content: the whole file.
        shape: what it must hold.
        where: the file, for messages.

    Raises:
        ShardError: names the file and the first member that is not as it must be.
    """
    arrays: dict[str, NDArray[Any]] = {
        name: np.empty((shape.samples, *spec.shape), spec.dtype) for name, spec in shape.fields.items()
    }
    for number, sample in enumerate(samples(content, where, shape.fields.keys(), shape.samples)):
        key = f"{shape.keys}{number:05d}"
        if sample.key != key:
            raise ShardError(f"{where}: sample {sample.key}: expected {key} here")
        for name, array in arrays.items():
            array[number] = _decode(sample, name, shape, where)
    return Arrays(arrays[shape.image], arrays["logits.npy"], arrays["cls"], arrays.get("target.npy"))


def _decode(sample: RawSample, name: str, shape: ShardShape, where: str) -> Any:
    payload, spec, place = sample.payloads[name], shape.fields[name], f"{where}: {sample.key}.{name}"
    if name == "cls":
        return decode_cls(payload, shape.classes, place)
    if name == "png":
        return decode_png(payload, spec.shape[0], spec.shape[1], place)
    return decode_npy(payload, spec.dtype, spec.shape, place)
