"""Reading a dataset: strict, verified, quick. Every shard's sha256 is checked before its first sample, every run."""

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple, Self, cast

import numpy as np
import torch
from torch import Tensor

from ..core.errors import ShardError
from ..core.files import sha256_bytes
from .decode import ShardShape, decode_shard
from .encode import Arrays
from .manifest import (
    LIMITS,
    MANIFEST,
    AttachmentEntry,
    Limits,
    Manifest,
    ShardEntry,
    Split,
    parse_manifest,
    shard_bytes,
)
from .opening import read_whole

__all__ = ["Dataset", "Samples", "Tally"]

_NAMED = (".tar", ".safetensors", ".csv")  # files of these types must stand in the manifest


class Samples(NamedTuple):
    """Samples of one split or shard, in the order they are stored."""

    images: Tensor  # [N, C, H, W] uint8 (png) or float16 in [0, 1] (npy)
    logits: Tensor  # [N, K] float32, the teacher's raw answer to the stored image
    cls: (
        Tensor  # [N] int64, argmax of what the method steered to, else the teacher's choice (real data: the true label)
    )
    targets: Tensor | None  # [N, K] float32, what the method steered to; None when not stored


class Tally:
    """Counts the train samples' labels and how often the teacher agrees with them, shard by shard."""

    def __init__(self, classes: int) -> None:
        """Begin with nothing."""
        self.histogram: list[int] = [0] * classes
        self.agreed = 0

    def add(self, logits: Tensor, cls: Tensor) -> None:
        """Count one shard: logits [N, K], cls [N]."""
        counts = cast(list[int], torch.bincount(cls, minlength=len(self.histogram)).tolist())
        self.histogram = [before + count for before, count in zip(self.histogram, counts, strict=True)]
        self.agreed += int((logits.argmax(dim=1) == cls).sum())

    @property
    def agreement(self) -> float:
        """Share of samples with argmax(logits) == cls, 0..1."""
        return self.agreed / sum(self.histogram)


class Dataset:
    """A folder with a manifest and the files it names. Nothing in the folder is ever imported or executed."""

    def __init__(self, folder: Path, manifest: Manifest, sha256: str = "", limits: Limits = LIMITS) -> None:
        """Use `Dataset.open`; for a folder that gets its manifest last, the manifest to come."""
        self.folder = folder
        self.manifest = manifest
        self.sha256 = sha256  # of manifest.json's bytes: compare it with the sender's to know whose dataset this is
        self._limits = limits

    @classmethod
    def open(cls, folder: Path, limits: Limits = LIMITS) -> Self:
        """Verify the manifest and that exactly its shards and attachments lie in the folder.

        Args:
            folder: the dataset.
            limits: caps on what it may ask for.

        Raises:
            ShardError: missing, damaged, edited or hostile; shards or attachments missing or too many. Names the file.
        """
        content = bytes(read_whole(folder, MANIFEST, limits.manifest_bytes))
        manifest = parse_manifest(content, str(folder / MANIFEST), limits)
        _check_budget(folder, manifest, limits)
        _check_files(folder, manifest)
        return cls(folder, manifest, sha256_bytes(content), limits)

    def count(self, split: Split) -> int:
        """How many samples a split has."""
        return self.manifest.samples.train if split == "train" else self.manifest.samples.holdout

    def decoded_bytes(self, split: Split) -> int:
        """How much memory `load` needs for this split's samples."""
        return self.count(split) * _sample_bytes(self.manifest)

    def read(self, entry: ShardEntry) -> Samples:
        """Verify and decode one of the manifest's shards.

        Raises:
            ShardError: its bytes are not those of the manifest, or not what they must be; names file and member.
        """
        content = self._content(entry, self._limits.shard_bytes)
        shape = ShardShape(entry.split, entry.number, entry.samples, self.manifest.fields)
        return to_samples(decode_shard(content, shape, str(self.folder / entry.name)))

    def attachment(self, entry: AttachmentEntry) -> bytes:
        """Read and verify one of the manifest's attachments; what its bytes mean is for others to say.

        Raises:
            ShardError: its bytes are not those of the manifest; names the file.
        """
        return bytes(self._content(entry, self._limits.attachment_bytes))

    def shards(self, split: Split) -> Iterator[Samples]:
        """Read a split shard by shard, in order; at the end its counts must be those of the manifest.

        Raises:
            ShardError: see `read`; or class histogram or teacher agreement differ from the manifest.
        """
        tally = Tally(len(self.manifest.teacher.classes))
        for entry in self.manifest.entries(split):
            samples = self.read(entry)
            tally.add(samples.logits, samples.cls)
            yield samples
        if split == "train":
            self._check_tally(tally)

    def load(self, split: Split) -> Samples:
        """Read a whole split into memory; empty tensors when it has no samples.

        Raises:
            ShardError: see `shards`.
        """
        try:
            whole = _empty(self.manifest, self.count(split))
        except (MemoryError, RuntimeError):
            needed = f"{self.decoded_bytes(split)} bytes"
            raise ShardError(f"{self.folder}: {split} needs {needed} of memory; read it shard by shard") from None
        start = 0
        for part in self.shards(split):
            stop = start + len(part.cls)
            for target, source in zip(whole, part, strict=True):
                if target is not None and source is not None:
                    target[start:stop] = source
            start = stop
        return whole

    def verify(self) -> None:
        """Read everything once and keep nothing.

        Raises:
            ShardError: the first thing that is wrong.
        """
        for split in ("train", "holdout"):
            for _ in self.shards(split):
                pass
        for entry in self.manifest.attachments:
            self.attachment(entry)

    def changed(self) -> tuple[str, ...]:
        """The files for people, such as the card, that are missing or no longer as they were published."""
        return tuple(name for name, sha256 in sorted(self.manifest.files.items()) if self._found(name) != sha256)

    def _found(self, name: str) -> str | None:
        try:
            return sha256_bytes(bytes(read_whole(self.folder, name, self._limits.attachment_bytes)))
        except ShardError:
            return None

    def _content(self, entry: ShardEntry | AttachmentEntry, most: int) -> bytearray:
        content = read_whole(self.folder, entry.name, most, exactly=entry.bytes)
        if sha256(content).hexdigest() != entry.sha256:
            path = self.folder / entry.name
            raise ShardError(f"{path}: damaged: sha256 differs from the manifest's; fetch or make the dataset again")
        return content

    def _check_tally(self, tally: Tally) -> None:
        name = self.folder / MANIFEST
        if tuple(tally.histogram) != self.manifest.class_histogram:
            raise ShardError(f"{name}: class_histogram differs from the labels in the shards")
        if tally.agreement != self.manifest.teacher_agreement:
            raise ShardError(
                f"{name}: teacher_agreement is {self.manifest.teacher_agreement}, the shards say {tally.agreement}"
            )


def to_samples(arrays: Arrays) -> Samples:
    """Arrays as tensors that share their memory."""
    targets = None if arrays.targets is None else torch.from_numpy(arrays.targets)  # pyright: ignore[reportUnknownMemberType]
    images, logits, cls = (torch.from_numpy(array) for array in arrays[:3])  # pyright: ignore
    return Samples(images, logits, cls, targets)


def _empty(manifest: Manifest, count: int) -> Samples:
    teacher, classes = manifest.teacher, len(manifest.teacher.classes)
    dtype = torch.uint8 if manifest.encoding == "png" else torch.float16
    return Samples(
        images=torch.empty(count, teacher.channels, teacher.size, teacher.size, dtype=dtype),
        logits=torch.empty(count, classes),
        cls=torch.empty(count, dtype=torch.int64),
        targets=torch.empty(count, classes) if manifest.soft_targets else None,
    )


def _sample_bytes(manifest: Manifest) -> int:
    return sum(np.dtype(spec.dtype).itemsize * int(np.prod(spec.shape)) for spec in manifest.fields.values())


def _check_budget(folder: Path, manifest: Manifest, limits: Limits) -> None:
    """Before anything is read: refuse files that are too large."""
    for entry in manifest.attachments:
        if entry.bytes > limits.attachment_bytes:
            most = limits.attachment_bytes
            raise ShardError(f"{folder / entry.name}: {entry.bytes} bytes; at most {most} are read of an attachment")
    for run in (*manifest.shards.train, *manifest.shards.holdout):
        length = shard_bytes(run.samples, manifest.fields)
        if length > limits.shard_bytes:
            raise ShardError(f"{folder}: shards of {length} bytes; at most {limits.shard_bytes} are read")


def _check_files(folder: Path, manifest: Manifest) -> None:
    """Exactly the manifest's shards and attachments must be there; files of other types, such as a card, may be."""
    expected = {entry.name for entry in (*manifest.every_entry, *manifest.attachments)}
    found = {path.name for path in folder.iterdir() if path.name.lower().endswith(_NAMED)}
    if expected - found:
        missing = folder / min(expected - found)
        raise ShardError(f"{missing}: missing, the manifest names it; fetch or make the dataset again")
    if found - expected:
        stale = min(found - expected).encode("ascii", "backslashreplace").decode()[:200]
        raise ShardError(f"{folder / stale}: not in the manifest (a leftover of another dataset?); remove it")
