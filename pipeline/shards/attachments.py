"""What a method's fit leaves in a work directory, beside the shards: files, then the index that makes them count."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.core.errors import MethodError, ParamsError, WorkError
from pipeline.core.files import canonical_json, crash_point, sha256_bytes, sha256_file, write_atomic
from pipeline.core.params import Block, build
from pipeline.shards.schema import AttachmentEntry, Entries
from pipeline.shards.sealed import read_sealed, sealed

if TYPE_CHECKING:
    from pipeline.methods import Attachment

__all__ = ["Attachments"]

_INDEX = "attachments.json"
_PREFIX = "attachment."  # no shard, no checkpoint and no file of the directory's own begins like this


class _Index(Block):
    work: str  # fingerprint of the work directory it was made for
    attachments: Entries


class Attachments:
    """The attachments of one work directory; picklable, so that a worker process can look."""

    def __init__(self, folder: Path) -> None:
        """`folder` is the work directory; nothing is touched."""
        self._folder = folder

    def path(self, name: str) -> Path:
        """Where an attachment's bytes are or will be."""
        return self._folder / f"{_PREFIX}{name}"

    def entries(self) -> tuple[AttachmentEntry, ...] | None:
        """What is there, by name, every file hashed; None when nothing was stored yet or a part of it is damaged."""
        index = read_sealed(_Index, self._index)
        if index is None or index.work != self._folder.name or not all(map(self._holds, index.attachments)):
            return None
        return index.attachments

    def store(self, attachments: "Sequence[Attachment]", method: str) -> None:
        """Store what a fit left, in place of whatever is there.

        Args:
            attachments: all of them; equal fits give equal ones.
            method: its name, for messages.

        Raises:
            MethodError: a name that is none or stands twice, facts that are no plain data, or a file too large.
            WorkError: the disk is full; nothing counts and nothing is left.
        """
        index = _index(attachments, self._folder.name, f"methods.{method}: attachments")
        self._index.unlink(missing_ok=True)
        try:
            for attachment in attachments:
                write_atomic(self.path(attachment.name), attachment.content)
                crash_point("attachment:stored")
            write_atomic(self._index, index)
        except WorkError:
            for attachment in attachments:
                self.path(attachment.name).unlink(missing_ok=True)
            raise
        crash_point("attachments:committed")

    @property
    def _index(self) -> Path:
        return self._folder / _INDEX

    def _holds(self, entry: AttachmentEntry) -> bool:
        path = self.path(entry.name)
        try:
            return path.stat().st_size == entry.bytes and sha256_file(path) == entry.sha256
        except OSError:
            return False


def _index(attachments: "Sequence[Attachment]", work: str, where: str) -> bytes:
    """The index of attachments that may be stored."""
    entries = [
        {
            "name": attachment.name,
            "kind": attachment.kind,
            "facts": dict(attachment.facts),
            "bytes": len(attachment.content),
            "sha256": sha256_bytes(attachment.content),
        }
        for attachment in sorted(attachments, key=lambda attachment: attachment.name)
    ]
    try:
        plain = json.loads(canonical_json({"work": work, "attachments": entries}))
        return sealed(build(_Index, plain, where))
    except (ParamsError, TypeError, ValueError) as error:
        raise MethodError(f"{where}: {' '.join(str(error).split())}") from error
