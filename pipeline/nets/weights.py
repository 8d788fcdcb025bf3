"""Weights in files that may be damaged or hostile: one strict reader of safetensors, one strict way into a network."""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from ..core.errors import PipelineError, TeacherError
from ..core.files import sha256_bytes

__all__ = [
    "Check",
    "DamagedError",
    "Shapes",
    "fill",
    "fitting",
    "load_into",
    "read",
    "read_safetensors",
    "reported",
    "shapes_of",
]

Shapes = Mapping[str, tuple[int, ...]]  # of tensors, by name
Check = Callable[[Shapes, Mapping[str, str]], None]  # of a header: shapes and metadata

_MAX_HEADER = 4 << 20  # bytes; some 30,000 tensors
_MAX_TENSORS = 20_000
_SHOWN = 6  # of a long list of names in a message
_COUNTER = "num_batches_tracked"


class DamagedError(Exception):
    """What is wrong with a file, in one line."""


@contextmanager
def reported(error: type[PipelineError], cure: str = "") -> Iterator[None]:
    """Turn a `DamagedError` into one that a user sees."""
    try:
        yield
    except DamagedError as found:
        raise error(f"{found}; {cure}" if cure else str(found)) from found


def read_safetensors(
    source: Path | bytes, where: str, check: Check | None = None
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a safetensors file that may be damaged or hostile.

    The header is looked at before the body is read, and must describe exactly the bytes that are there. The library
    itself refuses overlaps, holes and wrong shapes, but accepts a key that stands twice and any number of tensors.

    Args:
        source: a file, or its whole content.
        where: names the file in messages.
        check: sees the tensors' shapes and the metadata before the body is read, and raises what it does not accept.

    Returns:
        The tensors, on the CPU, and the header's free metadata.

    Raises:
        TeacherError: the file is not strictly as it must be; the message says where.
    """
    with reported(TeacherError):
        return read(source, where, check)


def load_into(net: nn.Module, weights: Mapping[str, Tensor], where: str) -> None:
    """Load a complete set of weights; floating-point values are cast to the network's dtype.

    `num_batches_tracked` may be missing (checkpoints from before it existed): no network in eval mode reads it.

    Args:
        net: the network, changed only when everything fits.
        weights: tensors by name.
        where: names the file and the architecture in messages.

    Raises:
        TeacherError: one line with what is missing, unexpected, misshaped or mistyped, and what has values that are
            not finite or variances that are negative.
    """
    with reported(TeacherError):
        fill(net, weights, where)


def fitting(net: nn.Module, where: str) -> Check:
    """A check of a header for names and shapes that are not the network's."""
    expected = shapes_of(net.state_dict())

    def check(offered: Shapes, _metadata: Mapping[str, str]) -> None:
        problems = _unlike(offered, expected)
        if problems:
            raise DamagedError(f"{where}: the weights do not fit: {'; '.join(problems)}")

    return check


def fill(net: nn.Module, weights: Mapping[str, Tensor], where: str) -> None:
    """As `load_into`, with a `DamagedError`."""
    expected: dict[str, Tensor] = net.state_dict()
    counters = {name: value for name, value in expected.items() if name.endswith(_COUNTER)}
    offered = {**counters, **weights}
    problems = _unlike(shapes_of(offered), shapes_of(expected))
    fitting: dict[str, Tensor] = {}
    wrong: list[str] = []
    for name in sorted(expected.keys() & offered.keys()):
        if offered[name].shape == expected[name].shape:
            fitting[name], problem = _fitted(name, offered[name], expected[name])
            wrong += [f"{name}: {problem}"] if problem else []
    if problems or wrong:
        raise DamagedError(f"{where}: the weights do not fit: {'; '.join([*problems, *_few(wrong)])}")
    net.load_state_dict(fitting)


def shapes_of(tensors: Mapping[str, Tensor]) -> Shapes:
    """What a header says of these tensors."""
    return {name: tuple(value.shape) for name, value in tensors.items()}


def _unlike(offered: Shapes, expected: Shapes) -> list[str]:
    """What differs in names and shapes."""
    missing = {name for name in expected.keys() - offered.keys() if not name.endswith(_COUNTER)}
    found: list[str] = []
    for what, names in (("missing", missing), ("unexpected", offered.keys() - expected.keys())):
        shown = _few(sorted(name if name.isprintable() else ascii(name) for name in names))
        found += [f"{what} {', '.join(name[:200] for name in shown)}"] if shown else []
    both = sorted(offered.keys() & expected.keys())
    shapes = [(name, list(offered[name]), list(expected[name])) for name in both if offered[name] != expected[name]]
    return found + _few([f"{name}: shape {has}, expected {needs}" for name, has, needs in shapes])


def _few(lines: list[str]) -> list[str]:
    return lines if len(lines) <= _SHOWN else [*lines[:_SHOWN], f"{len(lines) - _SHOWN} more"]


def _fitted(name: str, value: Tensor, expected: Tensor) -> tuple[Tensor, str | None]:
    """The value in the network's dtype, and what is wrong with it."""
    unlike = value.is_floating_point() != expected.is_floating_point() or value.is_complex()
    if unlike or (value.dtype is torch.bool) != (expected.dtype is torch.bool):
        return value, f"{_dtype(value)}, expected {_dtype(expected)}"
    cast_value = value.to(expected.dtype)
    wrong = int((~torch.isfinite(cast_value)).sum()) if cast_value.is_floating_point() else 0
    if wrong:
        return cast_value, f"{wrong} of {cast_value.numel()} values are not finite"
    negative = name.endswith("running_var") and bool((cast_value < 0).any())
    return cast_value, "a variance is negative" if negative else None


def _dtype(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def read(
    source: Path | bytes, where: str, check: Check | None = None, sha256: str = ""
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """As `read_safetensors`, with a `DamagedError`; a `sha256` that is not empty must be the content's."""
    try:
        with _opened(source, where) as file:
            length = file.seek(0, os.SEEK_END)
            file.seek(0)
            head = _head(file, length, where)
            shapes, metadata = _parsed(head[8:], length - len(head), where)
            if check is not None:
                check(shapes, metadata)
            content = head + file.read(length - len(head))
    except OSError as error:
        raise DamagedError(f"{where}: cannot be read ({error.strerror or error})") from error
    if sha256 and sha256_bytes(content) != sha256:
        raise DamagedError(f"{where}: sha256 differs from the recorded {sha256}")
    try:
        return load(content), metadata
    except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError, AttributeError) as error:
        raise DamagedError(f"{where}: damaged safetensors file ({' '.join(str(error).split())[:300]})") from error


def _opened(source: Path | bytes, where: str) -> BinaryIO:
    if isinstance(source, bytes):
        return BytesIO(source)
    if not source.is_file():
        raise DamagedError(f"{where}: no such file")
    return source.open("rb")


def _head(file: BinaryIO, length: int, where: str) -> bytes:
    """The eight bytes of the header's size, and the header."""
    prefix = file.read(8)
    size = int.from_bytes(prefix, "little")
    if len(prefix) < 8 or size > length - 8:
        raise DamagedError(f"{where}: not a safetensors file, or cut: its header claims {size} of {length} bytes")
    if size > _MAX_HEADER:
        raise DamagedError(f"{where}: a header of {size} bytes, expected at most {_MAX_HEADER}")
    return prefix + file.read(size)


def _parsed(text: bytes, body: int, where: str) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """A header's shapes by name, and its metadata; together the tensors must fill the body."""
    try:
        header: Any = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{where}: damaged safetensors header ({str(error)[:200]})") from error
    if not isinstance(header, dict):
        raise DamagedError(f"{where}: damaged safetensors header (a {type(header).__name__}, expected an object)")
    entries = cast(dict[str, Any], header)
    metadata: Any = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict):
        raise DamagedError(f"{where}: damaged safetensors header (metadata that is no object)")
    if len(entries) > _MAX_TENSORS:
        raise DamagedError(f"{where}: {len(entries)} tensors, expected at most {_MAX_TENSORS}")
    try:
        shapes = {name: tuple(int(side) for side in entry["shape"]) for name, entry in entries.items()}
        end = max((int(entry["data_offsets"][1]) for entry in entries.values()), default=0)
    except (TypeError, ValueError, KeyError, IndexError, OverflowError) as error:
        raise DamagedError(f"{where}: damaged safetensors file (an entry without shape or place)") from error
    if end != body:
        raise DamagedError(f"{where}: damaged safetensors file ({body} bytes of tensors, its header describes {end})")
    return shapes, cast(dict[str, str], metadata)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"duplicate key {ascii(key)[:200]}")
        found[key] = value
    return found
