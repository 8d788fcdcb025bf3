"""A last step for a finished student: a few real images of each class. What comes out is not data-free."""

from typing import Annotated, Any

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from ..classifier import Classifier, LastStep, Student, Teacher
from ..core.checkpoint import Checkpoint
from ..core.device import Compute
from ..core.errors import ParamsError, TrainingError
from ..core.params import Block, build
from ..core.rng import stream
from ..optimise.network import Row
from ..shards.reader import Dataset, Samples
from .feed import pool_of
from .params import DistillParams
from .train import learn, teacher_of

__all__ = ["FewShot", "draw", "few_shot_of", "finish"]


class FewShot(Block):
    """The keys of the `few_shot` block that are its own."""

    dataset: Annotated[str, Field(min_length=1)]  # the method whose dataset the real images are drawn from
    per_class: PositiveInt  # M images of each class


def few_shot_of(block: dict[str, Any]) -> tuple[FewShot, dict[str, Any]]:
    """Take the `few_shot` block apart: its own keys, and those to lay over `distill` with `merge`.

    Raises:
        ParamsError: one of its own keys is missing or wrong.
    """
    own = {name: block[name] for name in FewShot.model_fields if name in block}
    rest = {name: value for name, value in block.items() if name not in own}
    return build(FewShot, own, "few_shot"), rest


def finish(
    start: Student,
    dataset: Dataset,
    per_class: int,
    params: DistillParams,
    compute: Compute,
    checkpoint: Checkpoint | None = None,
    teacher: Teacher | None = None,
) -> tuple[Student, list[Row]]:
    """Train a finished student further on a few images of each class; resumable as `train` is.

    Args:
        start: the student; its weights are changed in place. Its seed decides which images are drawn, and everything
            else.
        dataset: real images; of its training split, so many are drawn, and its holdout split is measured on.
        per_class: M images of each class, by the class that is stored with them.
        params: recipe, labels and terms of this step.
        compute: where, in which precision.
        checkpoint: as in `train`.
        teacher: needed by `labels: live` alone.

    Returns:
        The student with a card that says so, and a history, as in `train`.

    Raises:
        ParamsError: a class has too few images; the first such is named.
        TrainingError: student and images have different teachers; and as in `train`.
        ShardError: a shard is damaged.
        WorkError: the checkpoint cannot be read or written.
    """
    teacher_sha256 = dataset.manifest.teacher.sha256
    if start.card.teacher != teacher_sha256:
        raise TrainingError(
            f"{dataset.folder} was labelled by the teacher {teacher_sha256}, the student learned from "
            f"{start.card.teacher}; make both with one teacher: run `dvc repro`"
        )
    taught = teacher_of(dataset, params, teacher)
    step = LastStep(start=start.card.sha256, dataset=dataset.sha256, per_class=per_class, labels=params.labels)
    free = start.card.data_free and dataset.manifest.data_free
    card = start.card.model_copy(update={"data_free": free, "few_shot": step, "cell": "", "sha256": ""})
    samples = draw(dataset, per_class, card.seed)
    feed = pool_of(samples, params.labels, compute.torch_device())
    return learn(Classifier(start.net, card, start.code), feed, dataset, params, compute, checkpoint, taught)


def draw(dataset: Dataset, per_class: int, seed: int) -> Samples:
    """So many training samples of each class, all equally likely: those with the smallest of numbers drawn for each.

    Shard by shard, so that no more than one and the result are in memory.

    Raises:
        ParamsError: a class has too few images; the first such is named.
        ShardError: a shard is damaged.
    """
    manifest = dataset.manifest
    for name, images in zip(manifest.teacher.classes, manifest.class_histogram, strict=True):
        if images < per_class:
            raise ParamsError(
                f"few_shot.per_class: {per_class}: {dataset.folder} has {images} images of class {name!r}; lower it, "
                f"or raise methods.{manifest.method}.count"
            )
    kept: tuple[Samples, Tensor] | None = None
    for index, part in enumerate(dataset.shards("train")):
        lots = torch.rand(len(part.cls), generator=stream(seed, "few_shot/draw", index), dtype=torch.float64)
        kept = _first(_joined(kept, part, lots), per_class)
    assert kept is not None  # a manifest has at least one training sample
    return kept[0]


def _joined(kept: tuple[Samples, Tensor] | None, part: Samples, lots: Tensor) -> tuple[Samples, Tensor]:
    if kept is None:
        return part, lots
    before, drawn = kept
    images, logits, cls = (torch.cat(pair) for pair in zip(before[:3], part[:3], strict=True))
    return Samples(images, logits, cls, None), torch.cat([drawn, lots])


def _first(candidates: tuple[Samples, Tensor], per_class: int) -> tuple[Samples, Tensor]:
    """Of each class the samples with the smallest lots, sorted by class and lot."""
    samples, lots = candidates
    by_lot = lots.argsort()
    chosen = by_lot[samples.cls[by_lot].argsort(stable=True)]
    counts = samples.cls.bincount()
    place_in_class = torch.arange(len(chosen)) - (counts.cumsum(0) - counts)[samples.cls[chosen]]
    chosen = chosen[place_in_class < per_class]
    return Samples(samples.images[chosen], samples.logits[chosen], samples.cls[chosen], None), lots[chosen]
