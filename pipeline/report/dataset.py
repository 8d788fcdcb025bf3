"""What the report says of one dataset: its manifest, its first pictures, and what was trained to make it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pipeline.report.pictures import Pictures, first_images
from pipeline.report.series import Series, parse_series
from pipeline.shards.reader import Dataset
from pipeline.shards.schema import AttachmentEntry

__all__ = ["DatasetFacts", "flat", "images_learned", "read_dataset"]


@dataclass(frozen=True)
class DatasetFacts:
    """One dataset."""

    data_free: bool
    manifest_sha256: str
    params: dict[str, str]
    images: int  # of the train split
    shards: int
    bytes: int  # of all shards and attachments
    teacher_agreement: float  # share of images on which the teacher names the class that was aimed at
    pictures: Pictures
    attachments: tuple[AttachmentEntry, ...]
    fit: Series | None  # how the training of its generator went, by epoch; None for a method without one
    learned: int | None  # see `images_learned`


def read_dataset(folder: Path, classes: int, per_class: int) -> DatasetFacts:
    """Read a dataset's manifest, first images and history.

    Raises:
        ShardError: the dataset is damaged.
        DataError: its history is not a table of numbers.
    """
    dataset = Dataset.open(folder)
    manifest = dataset.manifest
    return DatasetFacts(
        data_free=manifest.data_free,
        manifest_sha256=dataset.sha256,
        params=flat(manifest.method_params),
        images=manifest.samples.train,
        shards=len(manifest.entries("train")),
        bytes=sum(entry.bytes for entry in (*manifest.shards, *manifest.attachments)),
        teacher_agreement=manifest.teacher_agreement,
        pictures=first_images(dataset, classes, per_class),
        attachments=manifest.attachments,
        fit=_fit(dataset),
        learned=images_learned(manifest.method_params),
    )


def images_learned(params: dict[str, Any]) -> int | None:
    """How many different images a proxy student was trained on while its generator was, from the method's block.

    An iteration has `student_steps` proxy steps, each on a fresh batch, or all on the same one where `fresh` is false.
    None for a block without these keys: its proxy learns in another way.
    """
    keys = ("epochs", "iterations", "batch", "student_steps")
    if "proxy" not in params or not all(isinstance(params.get(key), int) for key in keys):
        return None
    epochs, iterations, batch, steps = (cast(int, params[key]) for key in keys)
    return epochs * iterations * batch * (steps if params.get("fresh", True) else 1)


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested values under dotted keys, as text."""
    leaves: dict[str, str] = {}
    for key, value in sorted(tree.items()):
        if isinstance(value, dict):
            leaves |= flat(cast(dict[str, Any], value), f"{prefix}{key}.")
        else:
            leaves[f"{prefix}{key}"] = value if isinstance(value, str) else json.dumps(value)
    return leaves


def _fit(dataset: Dataset) -> Series | None:
    """The dataset's history; the first one where there are several."""
    for entry in dataset.manifest.attachments:
        if entry.kind == "history":
            where = str(dataset.folder / entry.name)
            return parse_series(dataset.attachment(entry), where, "epoch", "make the dataset again")
    return None
