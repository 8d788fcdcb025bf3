"""One writer per work directory; writers of different ranges beside each other. Freed by the system on kill -9."""

from pathlib import Path

from filelock import FileLock, Timeout

from pipeline.core.errors import WorkError

__all__ = ["lock_part", "lock_whole"]

_MOMENT = 5.0  # seconds; a part holds the whole's lock only while it takes its own


def lock_whole(folder: Path) -> FileLock:
    """Lock a directory against everybody.

    Raises:
        WorkError: another run holds it or a part of it.
    """
    whole = _take(folder / ".lock", 0)
    try:
        for part in sorted(folder.glob(".lock-*")):
            _take(part, 0).release()
            part.unlink(missing_ok=True)
    except WorkError:
        whole.release()
        raise
    return whole


def lock_part(folder: Path, part: str) -> FileLock:
    """Lock a range ``a:b`` of a directory's shards against a whole run and against the same range.

    Raises:
        WorkError: another run holds the directory or this range.
    """
    with _take(folder / ".lock", _MOMENT):
        return _take(folder / f".lock-{part.replace(':', '-')}", 0)


def _take(path: Path, timeout: float) -> FileLock:
    lock = FileLock(path)
    try:
        lock.acquire(timeout=timeout)
    except Timeout as error:
        raise WorkError(
            f"{path.parent}: another run is at work there; wait for it to end, or stop it, then run this again"
        ) from error
    except OSError as error:
        raise WorkError(
            f"{path}: cannot be locked: {error.strerror or error}; set AFTERIMAGE_WORK_DIR to another folder"
        ) from error
    return lock
