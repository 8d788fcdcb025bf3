"""Reading a dataset: strict, verified, quick. Every shard's sha256 is checked before its first sample, every run."""

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Self

import numpy as np
import torch

from pipeline.core.errors import ShardError
from pipeline.core.files import sha256_bytes
from pipeline.shards.general import read_general
from pipeline.shards.limits import LIMITS, Limits
from pipeline.shards.opening import read_whole
from pipeline.shards.regular import ShardShape, read_regular
from pipeline.shards.schema import MANIFEST, AttachmentEntry, Manifest, ShardEntry, Split, parse_manifest
from pipeline.shards.tar import BLOCK
from pipeline.shards.values import Arrays, Samples, Tally, check_values, to_samples

__all__ = ["Dataset", "Samples", "decode_shard"]

_SLACK = 16 << 10  # headers, padding and metadata of one sample, at most
_NAMED = (".tar", ".safetensors", ".csv")  # files of these types must stand in the manifest
_RECORD = 20 * BLOCK  # what an archive's end may take


class Dataset:
    """A folder with a manifest and the files it names. Nothing in the folder is ever imported or executed."""

    def __init__(self, folder: Path, manifest: Manifest, sha256: str, limits: Limits) -> None:
        """Use `Dataset.open`."""
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
        shape = ShardShape(entry.split, entry.index, entry.samples, self.manifest.fields)
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


def decode_shard(content: bytes | bytearray, shape: ShardShape, where: str) -> Arrays:
    """Decode a shard's bytes: all at once when our encoder wrote them, else member by member.

    Args:
        content: the whole file; its sha256 is the caller's business.
        shape: what it must hold.
        where: the file, for messages.

    Raises:
        ShardError: names the file and the member.
    """
    try:
        arrays = read_regular(content, shape) or read_general(content, shape, where)
    except MemoryError:
        raise ShardError(f"{where}: {shape.samples} decoded samples are more than the memory that is free") from None
    check_values(arrays, shape.keys, where)
    return arrays


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
    """Before anything is read: refuse files that need too much memory or cannot hold what they claim."""
    for entry in manifest.attachments:
        if entry.bytes > limits.attachment_bytes:
            most = limits.attachment_bytes
            raise ShardError(f"{folder / entry.name}: {entry.bytes} bytes; at most {most} are read of an attachment")
    decoded, fields = _sample_bytes(manifest), len(manifest.fields)
    for entry in manifest.shards:
        claim = f"{folder / entry.name}: {entry.samples} samples in {entry.bytes} bytes"
        if entry.samples * decoded > limits.decoded_bytes or entry.bytes > limits.shard_bytes:
            most = f"{limits.shard_bytes} bytes, {limits.decoded_bytes} decoded"
            raise ShardError(f"{claim}, {entry.samples * decoded} bytes decoded; at most {most}, are read")
        if not entry.samples * fields * 2 * BLOCK < entry.bytes <= entry.samples * (2 * decoded + _SLACK) + _RECORD:
            raise ShardError(f"{claim} cannot be: too many or too few for their size")


def _check_files(folder: Path, manifest: Manifest) -> None:
    """Exactly the manifest's files must be there; those of other types (a card, a preview) are nobody's business."""
    expected = {entry.name for entry in (*manifest.shards, *manifest.attachments)}
    found = {path.name for path in folder.iterdir() if path.name.lower().endswith(_NAMED)}
    if expected - found:
        missing = folder / min(expected - found)
        raise ShardError(f"{missing}: missing, the manifest names it; fetch or make the dataset again")
    if found - expected:
        stale = min(found - expected).encode("ascii", "backslashreplace").decode()
        raise ShardError(f"{folder / stale}: not in the manifest (a leftover of another dataset?); remove it")
