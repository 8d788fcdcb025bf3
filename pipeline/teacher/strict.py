"""safetensors, read more strictly than the library does: bounded header, no duplicate keys, a bounded count."""

import json
from typing import Any, cast

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from pipeline.core.errors import TeacherError

__all__ = ["read_safetensors"]

_MAX_HEADER = 4 << 20  # bytes; some 30,000 tensors
_MAX_TENSORS = 20_000


def read_safetensors(content: bytes, where: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Parse a safetensors file that may be damaged or hostile.

    The library itself refuses overlaps, holes, wrong shapes, cuts and trailing bytes, but accepts a key that stands
    twice and any number of tensors.

    Args:
        content: the whole file.
        where: names the file in messages.

    Returns:
        The tensors, and the header's free metadata.

    Raises:
        TeacherError: the file is not strictly as it must be; the message says where.
    """
    header = _header(content, where)
    metadata = header.pop("__metadata__", {})
    if len(header) > _MAX_TENSORS:
        raise TeacherError(f"{where}: {len(header)} tensors, expected at most {_MAX_TENSORS}")
    try:
        return load(content), cast(dict[str, str], metadata)
    except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError, AttributeError) as error:
        raise TeacherError(f"{where}: damaged safetensors file ({' '.join(str(error).split())})") from error


def _header(content: bytes, where: str) -> dict[str, Any]:
    size = int.from_bytes(content[:8], "little")
    if len(content) < 8 or size > len(content) - 8:
        raise TeacherError(f"{where}: not a safetensors file, or cut: its header claims {size} of {len(content)} bytes")
    if size > _MAX_HEADER:
        raise TeacherError(f"{where}: a header of {size} bytes, expected at most {_MAX_HEADER}")
    try:
        header = json.loads(content[8 : 8 + size], object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise TeacherError(f"{where}: damaged safetensors header ({str(error)[:200]})") from error
    if not isinstance(header, dict):
        raise TeacherError(f"{where}: damaged safetensors header (a {type(header).__name__}, expected an object)")
    return cast(dict[str, Any], header)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"duplicate key {ascii(key)[:200]}")
        found[key] = value
    return found
