"""What `python -m pipeline.shards inspect` says about a dataset."""

import json

from pipeline.shards.reader import Dataset
from pipeline.shards.schema import Manifest

__all__ = ["summary"]

_BAR = 40  # characters of the fullest class
_UNITS = ("bytes", "kB", "MB", "GB", "TB")


def summary(dataset: Dataset) -> str:
    """A page of text about an open dataset; every training shard is read, and verified, for the mean confidence.

    Raises:
        ShardError: a shard is missing or damaged.
    """
    manifest = dataset.manifest
    teacher = manifest.teacher
    rows = {
        "method": f"{manifest.method}, {'data-free' if manifest.data_free else 'NOT data-free: real images'}",
        "parameters": json.dumps(manifest.method_params, sort_keys=True),
        "seed": str(manifest.seed),
        "teacher": f"{teacher.arch}, {len(teacher.classes)} classes, sha256 {teacher.sha256}",
        "input": f"{teacher.channels}x{teacher.size}x{teacher.size}, mean {teacher.mean}, std {teacher.std}",
        "fields": ", ".join(f".{name} {field.dtype}{list(field.shape)}" for name, field in manifest.fields.items()),
        "train": _split(manifest, "train"),
        "holdout": _split(manifest, "holdout"),
        "beside": ", ".join(f"{entry.name} ({_size(entry.bytes)})" for entry in manifest.attachments) or "nothing",
        "agreement": f"{manifest.teacher_agreement:.2%} of the labels are the teacher's first choice",
        "confidence": f"{_confidence(dataset):.4f}, the teacher's mean probability of its first choice",
    }
    return "\n".join([f"{name:<11} {text}" for name, text in rows.items()] + ["", *_bars(manifest), ""])


def _split(manifest: Manifest, split: str) -> str:
    entries = [entry for entry in manifest.shards if entry.split == split]
    samples = sum(entry.samples for entry in entries)
    return f"{samples:,} samples in {len(entries):,} shards, {_size(sum(entry.bytes for entry in entries))}"


def _size(count: float) -> str:
    unit = 0
    while count >= 1000 and unit < len(_UNITS) - 1:
        count, unit = count / 1000, unit + 1
    return f"{count:.4g} {_UNITS[unit]}"


def _confidence(dataset: Dataset) -> float:
    total = sum(float(shard.logits.softmax(dim=1).amax(dim=1).double().sum()) for shard in dataset.shards("train"))
    return total / dataset.manifest.samples.train


def _bars(manifest: Manifest) -> list[str]:
    """The class histogram; the fullest class has a full bar, a class with any sample at least one mark."""
    counts = manifest.class_histogram
    width = max(len(name) for name in manifest.teacher.classes)
    most = max(counts)
    return [
        f"{name:<{width}}  {'#' * -(-count * _BAR // most):<{_BAR}} {count:,}"
        for name, count in zip(manifest.teacher.classes, counts, strict=True)
    ]
