"""A folder for the state of one training: found again after a kill, never taken up by another training."""

import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pipeline.core.errors import WorkError
from pipeline.core.files import canonical_json, sha256_bytes

__all__ = ["workspace"]


@contextmanager
def workspace(name: str, key: dict[str, Any]) -> Generator[Path]:
    """The folder `.work/<name>/<fingerprint of key>`, locked; it goes away when the block ends well.

    The environment variable AFTERIMAGE_WORK_DIR replaces `.work`.

    Args:
        name: such as ``students/zskd-lenet5-0``.
        key: plain data: everything that determines the training. Another key has another folder.

    Raises:
        WorkError: another run is at work in it.
    """
    folder = Path(os.environ.get("AFTERIMAGE_WORK_DIR") or ".work") / name / sha256_bytes(canonical_json(key))[:16]
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_suffix(".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise WorkError(f"{folder}: another run is at work on {name}; wait for it, or stop it") from error
    try:
        yield folder
        shutil.rmtree(folder)
    finally:
        lock.release()
