"""Moved to `pipeline.core.work`."""  # shim

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.core.work import WorkDirectory, work_root

__all__ = ["workspace"]


@contextmanager
def workspace(name: str, key: dict[str, Any]) -> Iterator[Path]:
    """The folder of a `WorkDirectory`, which goes away when the block ends well."""  # shim
    with WorkDirectory(work_root(), name, key) as work:
        yield work.path
        work.discard()
