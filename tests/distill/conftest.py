"""Small datasets with known labels: scikit-learn's digits, labelled by a kernel machine."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline import nets
from pipeline.classifier import Card, Classifier, Teacher, TeacherCard
from pipeline.core.device import Compute
from pipeline.core.params import build
from pipeline.core.rng import stream
from pipeline.distill import DistillParams
from pipeline.losses import TERMS
from pipeline.methods import Attachment
from pipeline.optimise.learner import Optimizer
from pipeline.shards.encode import encode_shard
from pipeline.shards.manifest import (
    FORMAT_VERSION,
    AttachmentEntry,
    Manifest,
    Shards,
    Split,
    Totals,
    fields_of,
    manifest_bytes,
    shard_name,
)
from pipeline.shards.reader import Dataset

TEACHER = "ab" * 32
BLOCK: dict[str, Any] = {
    "labels": "stored", "loss": {"kl": {"temperature": 4.0}}, "memory_mb": 64, "batch": 16, "epochs": 3,
    "steps_per_epoch": 4,
    "optimizer": {"name": "adam", "learning_rate": 0.002, "momentum": 0.9, "schedule": "cosine"},
}  # fmt: skip


class Digits(NamedTuple):
    images: Tensor  # [N, 1, 16, 16] uint8
    labels: Tensor  # [N]


@pytest.fixture(scope="session")
def digits() -> Digits:
    from pipeline import real

    block = real.parse({"source": "digits", "size": 8, "channels": 1})
    splits = [found for split in ("train", "test") if (found := real.load(block, split)) is not None]
    images, labels = (torch.cat(parts) for parts in zip(*(split[:2] for split in splits), strict=True))
    # Shuffled: the scans come in the order of their writers, and the last ones write unlike the first.
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(images)))
    return Digits(images.repeat_interleave(2, 2).repeat_interleave(2, 3)[order], labels[order])


@pytest.fixture(scope="session")
def kernel_teacher(digits: Digits) -> Callable[[Tensor], Tensor]:
    """Logits of kernel ridge regression on pixels, fitted on the first 1200 digits; no network of ours."""
    known = digits.images[:1200].flatten(1).double() / 255

    def kernel(pixels: Tensor) -> Tensor:
        return torch.exp(-torch.cdist(pixels, known).square() / 60)

    ridge = kernel(known) + 1e-3 * torch.eye(1200, dtype=torch.float64)
    solution = torch.linalg.solve(ridge, torch.eye(10, dtype=torch.float64)[digits.labels[:1200]])
    return lambda images: (10 * kernel(images.flatten(1).double() / 255) @ solution).float()


def write_dataset(
    folder: Path,
    images: Tensor,
    logits: Tensor,
    cls: Tensor,
    train: tuple[int, ...],
    holdout: tuple[int, ...] = (),
    beside: tuple[Attachment, ...] = (),
) -> Dataset:
    """Write consecutive samples into shards of these sizes, the holdout after the training split."""
    folder.mkdir(parents=True)
    entries, start = [], 0
    splits: list[tuple[Split, int, int]] = [("train", i, n) for i, n in enumerate(train)]
    splits += [("holdout", i, n) for i, n in enumerate(holdout)]
    for split, index, count in splits:
        part = slice(start, start + count)
        content = encode_shard(images[part], logits[part], None, cls[part], "png", split, index)
        (folder / shard_name(split, index)).write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        entries.append((split, count, digest))
        start += count
    total, size, classes = sum(train), images.shape[-1], logits.shape[1]
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        method="noise",
        method_params={},
        steered=True,
        data_free=True,
        teacher=Card(
            arch="lenet5", sha256=TEACHER, classes=tuple(map(str, range(classes))), channels=images.shape[1], size=size,
            mean=(0.3,), std=(0.3,),
        ),
        seed=0,
        encoding="png",
        fields=fields_of("png", images.shape[1], size, classes, soft_targets=False),
        shards=Shards.of(entries),
        attachments=tuple(_attached(folder, attachment) for attachment in sorted(beside)),
        samples=Totals(train=total, holdout=sum(holdout)),
        class_histogram=tuple(torch.bincount(cls[:total], minlength=classes).tolist()),
        teacher_agreement=int((logits[:total].argmax(1) == cls[:total]).sum()) / total,
    )  # fmt: skip
    (folder / "manifest.json").write_bytes(manifest_bytes(manifest))
    return Dataset.open(folder)


def _attached(folder: Path, attachment: Attachment) -> AttachmentEntry:
    name, kind, facts, content = attachment
    (folder / name).write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    return AttachmentEntry(name=name, kind=kind, facts=dict(facts), bytes=len(content), sha256=digest)


@pytest.fixture
def small_set(tmp_path: Path, digits: Digits, kernel_teacher: Callable[[Tensor], Tensor]) -> Dataset:
    """50 training digits in four uneven shards, 20 held out."""
    images, labels = digits.images[:70], digits.labels[:70]
    return write_dataset(tmp_path / "set", images, kernel_teacher(images), labels, (20, 20, 7, 3), (20,))


@pytest.fixture
def params() -> Callable[..., DistillParams]:
    """The small block with what is asked for; keys of the optimiser and names of terms go where they belong."""

    def make(**changes: Any) -> DistillParams:
        block = {**BLOCK, "terms": {}}
        for key, value in changes.items():
            if key in Optimizer.model_fields:
                block["optimizer"] = {**block["optimizer"], key: value}
            elif key in TERMS:
                block["terms"][key] = value
            else:
                block[key] = value
        if block["labels"] == "hard":
            block["loss"] = {"cross_entropy": {}}
        return build(DistillParams, block, "distill")

    return make


@pytest.fixture
def cpu() -> Compute:
    return Compute(device="cpu", precision="float32", channels_last=False, compile="never")


@pytest.fixture
def write() -> Callable[..., Dataset]:
    """`write_dataset`."""
    return write_dataset


@pytest.fixture
def teacher(small_set: Dataset) -> Teacher:
    """A network that knows nothing, with the name of the one that labelled the small set."""
    card = TeacherCard(**small_set.manifest.teacher.model_dump(), batch_norm=False, accuracy=None, source="a test")
    return Classifier(nets.build("lenet5_half", 10, 1, 16, rng=stream(9, "teacher")), card).freeze()
