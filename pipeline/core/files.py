"""Files that count: written whole or not at all, hashed, sealed, and listed in canonical JSON or CSV."""

import csv
import glob
import hashlib
import io
import json
import math
import os
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar, cast

from .errors import ParamsError, WorkError, cure_of
from .params import Block, build

__all__ = [
    "canonical_json",
    "crash_point",
    "csv_bytes",
    "make_folder",
    "read_object",
    "read_sealed",
    "sealed",
    "sha256_bytes",
    "sha256_file",
    "sweep",
    "sync_folder",
    "write_atomic",
    "write_output",
]

_FAULT = "PHOTOGRAM_FAULT"  # "point:n": die like a power cut at the n-th passage of that point (tests)
_passages: dict[str, int] = {}

B = TypeVar("B", bound=Block)


def crash_point(name: str) -> None:
    """A place where a test can pull the plug: the process ends at once, nothing is flushed or cleaned up."""
    wanted = os.environ.get(_FAULT) or os.environ.get("AFTERIMAGE_FAULT")  # shim
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


def make_folder(path: Path) -> None:
    """Make a folder and those above it, unless it is there.

    Raises:
        WorkError: the system refuses; the message names the folder and the cure.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WorkError(f"cannot make folder {path}: {_refusal(error)}") from error


def write_atomic(path: Path, content: bytes) -> None:
    """Write `content` so that a reader, or a rerun after a crash, sees all of it or nothing.

    Temporary name, write, flush, fsync, `os.replace`, fsync of the folder. The temporary name, `.NAME.RANDOM.tmp`, is
    nobody else's; what a killed run leaves under one is removed by `sweep`.

    Raises:
        WorkError: the disk is full or refuses; nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
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
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise WorkError(f"cannot write {path} ({len(content)} bytes): {_refusal(error)}") from error
    except BaseException:  # Ctrl-C
        temporary.unlink(missing_ok=True)
        raise


def sweep(folder: Path, name: str | None = None) -> None:
    """Remove what killed writers left in a folder: `.*.tmp`, or only what was to become the file `name`.

    Without a name, nobody else may be writing there: their unfinished files would go too.
    """
    pattern = ".*.tmp" if name is None else f".{glob.escape(name)}.*.tmp"
    for leftover in folder.glob(pattern):
        with suppress(OSError):
            leftover.unlink()


def write_output(path: Path, content: bytes) -> None:
    """`write_atomic` in a folder that many commands write to: makes the folder and sweeps this file's leftovers.

    Raises:
        WorkError: the disk is full or refuses; nothing is left behind.
    """
    make_folder(path.parent)
    sweep(path.parent, path.name)
    write_atomic(path, content)


def _refusal(error: OSError) -> str:
    return f"{error.strerror or error}; {cure_of(error)}, then run the same command again"


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


def sealed(record: Block) -> bytes:
    """The one file content that stands for a record, with its own hash, so that a damaged one is not believed.

    Raises:
        ValueError: a number of it has no place in JSON.
    """
    content = record.model_dump()
    return canonical_json({"record": content, "sha256": sha256_bytes(canonical_json(content))})


def read_sealed(model: type[B], path: Path) -> B | None:
    """Read a record back; None when the file is missing or is not, to the byte, what `sealed` makes of its record."""
    content = read_object(path)
    try:
        record = build(model, content.get("record"), str(path))
        return record if sealed(record) == path.read_bytes() else None
    except (ParamsError, OSError):
        return None


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object; an empty one when the file is missing or damaged."""
    try:
        content: Any = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return cast(dict[str, Any], content) if isinstance(content, dict) else {}


def csv_bytes(rows: Sequence[Mapping[str, object]], columns: Sequence[str] | None = None) -> bytes:
    """A small table as CSV, a header and a line per row: the same rows give the same bytes.

    Args:
        rows: each has a value for every column.
        columns: their names; None: those of the first row.
    """
    names = list(columns if columns is not None else rows[0])
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _plain(value: Any) -> Any:
    """Tuples to lists, whole floats kept floats, so that equal values print equally."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} has no place in JSON")
    return value
