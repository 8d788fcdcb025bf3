"""Files that count: written whole or not at all, hashed, and listed in canonical JSON."""

import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any

from pipeline.core.errors import WorkError

__all__ = ["canonical_json", "crash_point", "sha256_bytes", "sha256_file", "sync_folder", "write_atomic"]

_FAULT = "AFTERIMAGE_FAULT"  # "point:n": die like a power cut at the n-th passage of that point (tests)
_passages: dict[str, int] = {}


def crash_point(name: str) -> None:
    """A place where a test can pull the plug: the process ends at once, nothing is flushed or cleaned up."""
    wanted = os.environ.get(_FAULT)
    if wanted is None:
        return
    point, _, nth = wanted.rpartition(":")
    if point == name:
        _passages[name] = _passages.get(name, 0) + 1
        if _passages[name] == int(nth):
            os._exit(137)


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, content: bytes) -> None:
    """Write `content` so that a reader, or a rerun after a crash, sees all of it or nothing.

    Temporary name, write, flush, fsync, `os.replace`, fsync of the folder.

    Raises:
        WorkError: the disk is full or refuses; nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("xb") as file:
            crash_point("write:opened")
            file.write(content)
            crash_point("write:written")
            file.flush()
            os.fsync(file.fileno())
        crash_point("write:synced")
        os.replace(temporary, path)  # noqa: PTH105 - named in the docstring as the commit
        crash_point("write:replaced")
        sync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise WorkError(
            f"cannot write {path} ({len(content)} bytes): {error.strerror or error}; "
            "free some space or choose another folder, then run the same command again"
        ) from error


def sha256_bytes(content: bytes) -> str:
    """Hex sha256."""
    return hashlib.sha256(content).hexdigest()


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys, two-space indent and a final newline; the same value gives the same bytes.

    Raises:
        ValueError: the value holds NaN or an infinity.
    """
    return (json.dumps(_plain(value), sort_keys=True, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode()


def _plain(value: Any) -> Any:
    """Tuples to lists, whole floats kept floats, so that equal values print equally."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} has no place in JSON")
    return value
