"""The work directory: where shards wait until a dataset is whole, and what makes resume and growth work.

It is keyed by everything that determines a shard's bytes and by nothing else, so the number of samples is not in the
key. A shard exists when its sidecar says so and the bytes agree; anything else is made again.
"""

import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Self, cast

from filelock import FileLock

from pipeline.core.checkpoint import Checkpoint
from pipeline.core.device import Compute
from pipeline.core.errors import ParamsError, WorkError
from pipeline.core.files import canonical_json, crash_point, sha256_bytes, sha256_file, write_atomic
from pipeline.core.params import Block
from pipeline.shards.attachments import Attachments
from pipeline.shards.locks import lock_part, lock_whole
from pipeline.shards.plan import ShardPlan
from pipeline.shards.schema import FORMAT_VERSION
from pipeline.shards.sealed import read_object, read_sealed, sealed

__all__ = ["ShardRecord", "WorkDirectory", "prune", "work_key", "work_root"]

_ROOT = "AFTERIMAGE_WORK_DIR"
_KEY = "key.json"
_FINGERPRINT_LETTERS = 16


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


def work_root(default: Path = Path(".work")) -> Path:
    """The folder of all work directories: the environment variable AFTERIMAGE_WORK_DIR, else `default`."""
    return Path(os.environ.get(_ROOT) or default)


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
        code: fingerprint of the code behind the method.
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


class WorkDirectory:
    """The shards of one dataset under one key: `<root>/synthetic/<name>/<fingerprint>/`, one writer at a time.

    Use it in a `with` block: entering takes the lock, removes the leftovers of killed runs and, when the directory is
    new, says on stderr how its key differs from the one used last.
    """

    def __init__(self, root: Path, name: str, key: dict[str, Any], part: str | None = None) -> None:
        """Nothing is touched before the directory is entered.

        Args:
            root: as `work_root` gives it.
            name: the dataset's name.
            key: as `work_key` gives it.
            part: the range ``a:b`` when this run makes only some of the shards (see `select`). Runs with
                different ranges may share the directory; a run without one shares it with nobody.
        """
        self.name = name
        self.part = part
        self._key = canonical_json(key)
        self.fingerprint = sha256_bytes(self._key)[:_FINGERPRINT_LETTERS]
        self.path = root / "synthetic" / name / self.fingerprint
        self._records: dict[str, ShardRecord] = {}
        self._lock: FileLock | None = None

    def __enter__(self) -> Self:
        """Lock and clean up.

        Raises:
            WorkError: another run is at work here, or the disk refuses.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WorkError(f"cannot make work directory {self.path}: {error.strerror}; set {_ROOT}") from error
        self._lock = lock_whole(self.path) if self.part is None else lock_part(self.path, self.part)
        try:
            self._prepare()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Release the lock; everything stays for the next run."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def checkpoint(self, name: str) -> Checkpoint:
        """A place for training state that belongs to this key, such as a generator in training."""
        return Checkpoint(self.path / f"{name}.safetensors")

    @property
    def attachments(self) -> Attachments:
        """What the fit left for this key beside its shards."""
        return Attachments(self.path)

    def shard_path(self, plan: ShardPlan) -> Path:
        """Where the shard's bytes are or will be."""
        return self.path / plan.name

    def record(self, plan: ShardPlan) -> ShardRecord | None:
        """The shard's record if it is there and whole; the file is hashed once per run."""
        if plan.name not in self._records:
            found = read_sealed(ShardRecord, self._sidecar(plan))
            if found is None or not self._holds(plan, found):
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

    def _holds(self, plan: ShardPlan, record: ShardRecord) -> bool:
        if (record.name, record.samples, record.work) != (plan.name, plan.samples, self.fingerprint):
            return False
        path = self.shard_path(plan)
        try:
            return path.stat().st_size == record.bytes and sha256_file(path) == record.sha256
        except OSError:
            return False

    def _prepare(self) -> None:
        if self.part is None:  # with a range, a temporary file may belong to a run beside this one
            for leftover in self.path.glob(".*.tmp"):
                leftover.unlink(missing_ok=True)
        key = self.path / _KEY
        if not key.is_file() or key.read_bytes() != self._key:
            self._explain()
            write_atomic(key, self._key)
        os.utime(key)  # the time of last use

    def _explain(self) -> None:
        """Say once, when a directory is new, why the shards of the last one cannot be used."""
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
    """Delete all but the `keep` most recently used work directories of each dataset; those in use stay.

    Returns:
        The directories deleted.

    Raises:
        ParamsError: `keep` is negative.
    """
    if keep < 0:
        raise ParamsError(f"--keep {keep}: expected 0 or more")
    deleted: list[Path] = []
    for dataset in sorted((root / "synthetic").glob("*/")):
        for folder in _by_last_use(dataset)[keep:]:
            try:
                with lock_whole(folder):
                    _delete(folder)
            except WorkError:
                continue
            deleted.append(folder)
    return tuple(deleted)


def _delete(folder: Path) -> None:
    # The key late: without it a half-deleted directory would not be found again. The lock last.
    for file in sorted(folder.iterdir(), key=lambda file: (file.name == ".lock", file.name == _KEY)):
        file.unlink(missing_ok=True)
    with suppress(OSError):  # a run that has just begun there
        folder.rmdir()


def _by_last_use(dataset: Path) -> list[Path]:
    """Work directories of one dataset, the most recently used first."""
    keys = [key for key in dataset.glob(f"*/{_KEY}") if key.is_file()]
    return [key.parent for key in sorted(keys, key=lambda key: (-key.stat().st_mtime_ns, str(key)))]


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
