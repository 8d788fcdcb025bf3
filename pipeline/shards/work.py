"""Shards in their work directory: which make a dataset, which are there, and what the method's fit left beside them.

The directory is keyed by everything that determines a shard's bytes and by nothing else, so the number of samples is
not in the key. A shard exists when its sidecar says so and the bytes agree; anything else is made again.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..core.device import Compute
from ..core.errors import MethodError, ParamsError, WorkError
from ..core.files import (
    canonical_json,
    crash_point,
    read_sealed,
    sealed,
    sha256_bytes,
    sha256_file,
    write_atomic,
)
from ..core.params import Block, build
from ..core.work import WorkDirectory as _WorkDirectory
from ..core.work import prune as prune  # noqa: PLC0414 # shim
from ..core.work import work_root as work_root  # noqa: PLC0414 # shim
from ..synthesis.batch import Attachment  # shim: optimise.source
from .limits import LIMITS
from .make import ShardPlan
from .schema import FORMAT_VERSION, AttachmentEntry, Entries

__all__ = ["Attachments", "ShardDirectory", "ShardPlan", "ShardRecord", "plan", "select", "work_key"]

_INDEX = "attachments.json"
_PREFIX = "attachment."  # no shard, no checkpoint and no file of the directory's own begins like this


def plan(count: int, size: int, holdout: int, key: str = "count") -> tuple[ShardPlan, ...]:
    """List the shards of a dataset: train first, then holdout.

    Args:
        count: training samples, a positive multiple of `size`: a short last shard would have to be made anew when
            the dataset grows.
        size: samples per shard.
        holdout: held-out samples, a multiple of `size`; 0 for none.
        key: the full name of the `count` parameter, for messages.

    Raises:
        ParamsError: a number that is not a multiple (the message gives the nearest ones), or more than a dataset holds.
    """
    if not 1 <= size <= LIMITS.shard_samples:
        raise ParamsError(f"shards.size: {size}: expected 1 to {LIMITS.shard_samples} samples per shard")
    _whole(key, count, size, least=size)
    _whole("shards.holdout", holdout, size, least=0)
    numbers = count // size, holdout // size
    if sum(numbers) > LIMITS.shards:
        least = -(-(count + holdout) // LIMITS.shards)
        raise ParamsError(
            f"{key}: {count}: makes {sum(numbers)} shards with shards.holdout, a dataset has at most {LIMITS.shards}; "
            f"set shards.size to {least} or more"
        )
    return (
        *(ShardPlan("train", index, size) for index in range(numbers[0])),
        *(ShardPlan("holdout", index, size) for index in range(numbers[1])),
    )


def select(plans: Sequence[ShardPlan], text: str) -> tuple[ShardPlan, ...]:
    """The shards of a range such as ``8:16``, counted over the whole plan; ``0:0`` selects none, for a fit alone.

    Raises:
        ParamsError: not two whole numbers a:b with 0 <= a <= b <= the number of shards.
    """
    match = re.fullmatch(r"([0-9]{1,9}):([0-9]{1,9})", text)
    if match is None or not int(match[1]) <= int(match[2]) <= len(plans):
        raise ParamsError(f"--shards {text}: expected a:b with 0 <= a <= b <= {len(plans)}, the number of shards")
    return tuple(plans[int(match[1]) : int(match[2])])


def _whole(key: str, value: int, size: int, least: int) -> None:
    if value >= least and value % size == 0:
        return
    below = max(least, value // size * size)
    nearest = " or ".join(str(number) for number in dict.fromkeys((below, max(below, value // size * size + size))))
    raise ParamsError(f"{key}: {value}: expected a multiple of shards.size ({size}); the nearest: {nearest}")


class ShardRecord(Block):
    """What a sidecar says about a shard in a work directory."""

    name: str
    samples: int
    bytes: int
    sha256: str
    histogram: tuple[int, ...]  # samples per class, by stored label
    agree: int  # samples whose stored label is the teacher's first choice
    seconds: float  # that making it took, on one worker
    work: str  # fingerprint of the work directory it was made for


def work_key(
    *,
    method: str,
    params: dict[str, Any],
    seed: int,
    teacher: str,
    encoding: str,
    size: int,
    code: str,
    compute: Compute,
) -> dict[str, Any]:
    """Everything that determines a shard's bytes, as the key of a work directory.

    Args:
        method: its name.
        params: its validated parameters, without the count.
        seed: the run's seed.
        teacher: sha256 of the teacher's weights.
        encoding: png or npy.
        size: samples per shard.
        code: `core.code.work_fingerprint` of the code that makes a shard.
        compute: device type, precision and layout change the last digits of a sum; the device's number does not count.
    """
    return {
        "method": method,
        "params": params,
        "seed": seed,
        "teacher": teacher,
        "encoding": encoding,
        "size": size,
        "code": code,
        "compute": compute.model_dump() | {"device": compute.torch_device().type},
        "format_version": FORMAT_VERSION,
    }


class ShardDirectory(_WorkDirectory):
    """The shards of one dataset under one key: the work directory `synthetic/<dataset>`."""

    def __init__(self, root: Path, dataset: str, key: dict[str, Any], part: str | None = None) -> None:
        """Nothing is touched before the directory is entered.

        Args:
            root: as `core.work.work_root` gives it.
            dataset: its name.
            key: as `work_key` gives it.
            part: the range ``a:b`` when this run makes only some of the shards (see `select`).
        """
        super().__init__(root, f"synthetic/{dataset}", key, part)
        self.dataset = dataset
        self._records: dict[str, ShardRecord] = {}

    @property
    def attachments(self) -> "Attachments":
        """What the fit left for this key beside its shards."""
        return Attachments(self.path)

    def shard_path(self, plan: ShardPlan) -> Path:
        """Where the shard's bytes are or will be."""
        return self.path / plan.name

    def record(self, plan: ShardPlan) -> ShardRecord | None:
        """The shard's record if it is there and whole; the file is hashed once per run."""
        if plan.name not in self._records:
            found = read_sealed(ShardRecord, self._sidecar(plan))
            expected = (plan.name, plan.samples, self.fingerprint)
            if found is None or (found.name, found.samples, found.work) != expected:
                return None
            if not _holds(self.shard_path(plan), found.bytes, found.sha256):
                return None
            self._records[plan.name] = found
        return self._records[plan.name]

    def commit(self, plan: ShardPlan, content: bytes, record: ShardRecord) -> ShardRecord:
        """Store a shard: its bytes, then the sidecar that makes it count.

        Raises:
            WorkError: the disk is full; the shard does not count and nothing of it is left.
        """
        record = record.model_copy(update={"work": self.fingerprint})
        path, sidecar = self.shard_path(plan), self._sidecar(plan)
        sidecar.unlink(missing_ok=True)  # of damaged bytes that are being replaced
        try:
            write_atomic(path, content)
            crash_point("shard:stored")
            write_atomic(sidecar, sealed(record))
        except WorkError:
            sidecar.unlink(missing_ok=True)
            path.unlink(missing_ok=True)
            raise
        crash_point("shard:committed")
        self._records[plan.name] = record
        return record

    def _sidecar(self, plan: ShardPlan) -> Path:
        return self.path / f"{plan.name}.json"


WorkDirectory = ShardDirectory  # shim


class _Index(Block):
    work: str  # fingerprint of the work directory it was made for
    attachments: Entries


class Attachments:
    """What a fit left in one work directory: files, then the index that makes them count; picklable, for workers."""

    def __init__(self, folder: Path) -> None:
        """`folder` is the work directory; nothing is touched."""
        self._folder = folder

    def path(self, name: str) -> Path:
        """Where an attachment's bytes are or will be."""
        return self._folder / f"{_PREFIX}{name}"

    def entries(self) -> tuple[AttachmentEntry, ...] | None:
        """What is there, by name, every file hashed; None when nothing was stored yet or a part of it is damaged."""
        index = read_sealed(_Index, self._index)
        if index is None or index.work != self._folder.name:
            return None
        whole = all(_holds(self.path(entry.name), entry.bytes, entry.sha256) for entry in index.attachments)
        return index.attachments if whole else None

    def store(self, attachments: Sequence[Attachment], method: str) -> None:
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


def _index(attachments: Sequence[Attachment], work: str, where: str) -> bytes:
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


def _holds(path: Path, size: int, sha256: str) -> bool:
    """Whether a file is there and whole."""
    try:
        return path.stat().st_size == size and sha256_file(path) == sha256
    except OSError:
        return False
