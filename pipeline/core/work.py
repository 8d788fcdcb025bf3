"""Work directories: where unfinished work waits for the next run, found again after a kill, never taken up by another.

One implementation for everything that takes long: shards and generators in training, students, the teacher. A directory
`<root>/<name>/<fingerprint>/` is keyed by everything that determines the work's bytes, and used by one writer at a
time.
"""

import fcntl
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Self, cast

from .checkpoint import Checkpoint
from .errors import ParamsError, WorkError, cure_of
from .files import canonical_json, read_object, sha256_bytes, sweep, write_atomic

__all__ = ["WorkDirectory", "prune", "work_root"]

_ROOT = "PHOTOGRAM_WORK_DIR"
_KEY = "key.json"
_LOCK = ".lock"
_FINGERPRINT_LETTERS = 16
_FINGERPRINT = re.compile(rf"[0-9a-f]{{{_FINGERPRINT_LETTERS}}}")
_MOMENT = 5.0  # seconds; a part holds the whole's lock only while it takes its own
_PAUSE = 0.02
_TRIES = 100


def work_root(default: Path = Path(".work")) -> Path:
    """The folder of all work directories: the environment variable PHOTOGRAM_WORK_DIR, else `default`."""
    return Path(os.environ.get(_ROOT) or os.environ.get("AFTERIMAGE_WORK_DIR") or default)  # shim


class WorkDirectory:
    """The unfinished work of one name under one key, one writer at a time.

    Use it in a `with` block: entering takes the lock, removes the leftovers of killed runs and, when the directory is
    new, says on stderr how its key differs from the one used last.
    """

    def __init__(self, root: Path, name: str, key: dict[str, Any], part: str | None = None) -> None:
        """Nothing is touched before the directory is entered.

        Args:
            root: as `work_root` gives it.
            name: such as ``synthetic/zskd``, ``students/zskd-resnet8-0`` or ``teacher``.
            key: plain data: everything that determines the work's bytes. Another key has another directory.
            part: the range ``a:b`` when this run does only a part of the work. Runs with different ranges may share
                the directory; a run without one shares it with nobody.
        """
        self.name = name
        self.part = part
        self._key = canonical_json(key)
        self.fingerprint = sha256_bytes(self._key)[:_FINGERPRINT_LETTERS]
        self.path = root / name / self.fingerprint
        self._root = root
        self._held = ExitStack()

    def __enter__(self) -> Self:
        """Lock and clean up.

        Raises:
            WorkError: another run is at work here, or the disk refuses.
        """
        with ExitStack() as held:
            held.enter_context(_lock(self.path, self.part))
            self._prepare()
            self._held = held.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """Release the lock; everything stays for the next run."""
        self._held.close()

    def checkpoint(self, name: str) -> Checkpoint:
        """A place for training state that belongs to this key, such as a generator or a student in training."""
        return Checkpoint(self.path / f"{name}.safetensors", self.fingerprint)

    def discard(self) -> None:
        """Remove the directory, inside its `with` block: the work has ended well and its result is stored elsewhere."""
        _delete(self.path, self._root)

    def _prepare(self) -> None:
        if self.part is None:  # with a range, a temporary file may belong to a run beside this one
            sweep(self.path)
        key = self.path / _KEY
        try:
            if not key.is_file() or key.read_bytes() != self._key:
                self._explain()
                write_atomic(key, self._key)
            os.utime(key)  # the time of last use
        except OSError as error:
            raise WorkError(f"{key}: {error.strerror or error}; {cure_of(error)}, or set {_ROOT}") from error

    def _explain(self) -> None:
        """Say once, when a directory is new, why the work of the last one cannot be used."""
        others = [folder for folder in _by_last_use(self.path.parent) if folder != self.path]
        previous = _flat(read_object(others[0] / _KEY)) if others else {}
        if not previous:
            return
        ours = _flat(json.loads(self._key))
        differing = [
            f"{name} ({_short(previous.get(name))} -> {_short(ours.get(name))})"
            for name in sorted(previous.keys() | ours.keys())
            if previous.get(name) != ours.get(name)
        ]
        sys.stderr.write(f"{self.name}: starting anew, not from {others[0]}: {', '.join(differing)}\n")


def prune(root: Path, keep: int) -> tuple[Path, ...]:
    """Delete all but the `keep` most recently used work directories of each name; those in use stay.

    That is of every dataset, and of every training that was stopped: one that ends leaves none.

    Returns:
        The directories deleted.

    Raises:
        ParamsError: `keep` is negative.
        WorkError: a directory may not be deleted.
    """
    if keep < 0:
        raise ParamsError(f"--keep {keep}: expected 0 or more")
    deleted: list[Path] = []
    for folder in _names(root):
        for old in _by_last_use(folder)[keep:]:
            try:
                with _lock(old):
                    _delete(old, root)
            except _InUseError:
                continue
            deleted.append(old)
    return tuple(deleted)


class _InUseError(WorkError):
    """Another run is at work."""


@contextmanager
def _lock(folder: Path, part: str | None = None) -> Iterator[None]:
    """Hold a directory against everybody, or a range ``a:b`` of its work against a whole run and the same range.

    The folder is made if need be. The system frees the lock when the process ends, however it ends.

    Raises:
        WorkError: another run holds it or a part of it, or the disk refuses.
    """
    whole = _take(folder / _LOCK, 0.0 if part is None else _MOMENT)
    held = whole
    try:
        if part is not None:
            held = _take(folder / f"{_LOCK}-{part.replace(':', '-')}")
            os.close(whole)
        for other in sorted(folder.glob(f"{_LOCK}-*")) if part is None else ():
            os.close(_take(other))
            other.unlink(missing_ok=True)
    except BaseException:
        os.close(whole)
        raise
    try:
        yield
    finally:
        os.close(held)


def _take(path: Path, patience: float = 0.0) -> int:
    """Lock a file, made if need be, for as long as the descriptor stays open.

    Raises:
        WorkError: somebody else holds it for longer than `patience` seconds, or the disk refuses.
    """
    deadline, vanished = time.monotonic() + patience, 0
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            vanished += 1
            if isinstance(error, FileNotFoundError) and vanished < _TRIES:
                continue  # a training has ended here just now and removed its folder
            raise WorkError(f"cannot make {path}: {error.strerror}; {cure_of(error)}, or set {_ROOT}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(descriptor, path):
                return descriptor
            os.close(descriptor)  # its holder has deleted it: take the new one
        except BlockingIOError as error:
            os.close(descriptor)
            if time.monotonic() >= deadline:
                cure = "wait for it to end, or stop it, then run this again"
                raise _InUseError(f"{path.parent}: another run is at work there; {cure}") from error
            time.sleep(_PAUSE)
        except OSError as error:
            os.close(descriptor)
            raise WorkError(f"{path}: cannot be locked: {error.strerror}; set {_ROOT} to another folder") from error


def _is_at(descriptor: int, path: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), path.stat())
    return False


def _delete(folder: Path, root: Path) -> None:
    """Delete a directory whose lock is held, and the folders above it that are empty then.

    The key late, so that a half-deleted one is found again; the lock last.
    """
    try:
        for entry in sorted(folder.iterdir(), key=lambda entry: (entry.name == _LOCK, entry.name == _KEY)):
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink(missing_ok=True)
    except OSError as error:
        raise WorkError(f"cannot delete {folder}: {error.strerror or error}; {cure_of(error)}") from error
    with suppress(OSError):  # not empty: another work directory, or a run that has just begun there
        for empty in (folder, *folder.parents):
            if empty == root:
                break
            empty.rmdir()


def _names(root: Path) -> list[Path]:
    """The folders that hold work directories: `teacher`, `synthetic/zskd`, `students/zskd-resnet8-0`, ..."""
    kinds = [path for path in root.glob("*/") if path.is_dir()]
    return sorted({*kinds, *(path for kind in kinds for path in kind.glob("*/") if path.is_dir())})


def _by_last_use(name: Path) -> list[Path]:
    """Work directories of one name, the most recently used first."""
    found: list[tuple[int, str, Path]] = []
    for folder in name.glob("*/"):
        if _FINGERPRINT.fullmatch(folder.name):
            with suppress(FileNotFoundError):
                found.append((-_last_use(folder), folder.name, folder))
    return [folder for _, _, folder in sorted(found)]


def _last_use(folder: Path) -> int:
    """In nanoseconds.

    Raises:
        FileNotFoundError: it is no work directory, or is being deleted.
    """
    key = folder / _KEY
    if not key.is_file() and any(entry.is_dir() for entry in folder.iterdir()):
        raise FileNotFoundError(folder)  # a name that looks like a fingerprint
    return (key if key.is_file() else folder).stat().st_mtime_ns


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted names."""
    if not isinstance(value, dict):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for name, item in cast(dict[str, Any], value).items():
        flat |= _flat(item, f"{prefix}.{name}" if prefix else name)
    return flat


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 24 else f"{text[:20]}...{text[-1]}"
