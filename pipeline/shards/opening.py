"""Opening files inside a dataset folder: regular files only, never through a link, never out of the folder."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..core.errors import ShardError

__all__ = ["read_whole"]

_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # a FIFO must not block us
_LINK = "a link, expected a regular file: copy the file itself here (with DVC: `dvc config cache.type copy`)"


def read_whole(folder: Path, name: str, most: int, exactly: int | None = None) -> bytearray:
    """Read a file of a dataset folder into memory; nothing is allocated before its size is checked.

    Args:
        folder: the dataset folder.
        name: the file's name, without any folder.
        most: refuse larger files.
        exactly: refuse any other size.

    Raises:
        ShardError: missing, not a regular file, of the wrong size, or changing while being read.
    """
    path = folder / name
    with _opened(folder, name) as descriptor:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ShardError(f"{path}: not a regular file")
        size = status.st_size
        if exactly is not None and size != exactly:
            raise ShardError(f"{path}: {size} bytes, the manifest says {exactly}; fetch or make the dataset again")
        if size > most:
            raise ShardError(f"{path}: {size} bytes, expected at most {most}")
        try:
            content = bytearray(size)
        except MemoryError:
            raise ShardError(f"{path}: {size} bytes, more than the memory that is free") from None
        _fill(descriptor, content, path)
    return content


def _fill(descriptor: int, content: bytearray, path: Path) -> None:
    view, done = memoryview(content), 0
    try:
        while done < len(content):
            count = os.readv(descriptor, [view[done:]])
            if count == 0:
                raise ShardError(f"{path}: became shorter while it was read")
            done += count
    except OSError as error:
        raise ShardError(f"{path}: cannot be read: {error.strerror}") from error


@contextmanager
def _opened(folder: Path, name: str) -> Iterator[int]:
    path = folder / name
    if name in {"", ".", ".."} or "/" in name or "\0" in name:
        raise ShardError(f"{folder}: {name[:80]!r} is not a file name")
    try:
        root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise ShardError(f"{folder}: not a dataset folder: {error.strerror}") from error
    try:
        descriptor = os.open(name, _FLAGS, dir_fd=root)
    except OSError as error:
        reason = _LINK if error.errno == errno.ELOOP else (error.strerror or str(error))
        raise ShardError(f"{path}: {reason[0].lower() + reason[1:]}") from error
    finally:
        os.close(root)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
