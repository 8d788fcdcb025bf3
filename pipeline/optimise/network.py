"""The one training loop, of teachers, students and proxies: what it reads from, what it may change, how it resumes."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor, nn

from ..core.checkpoint import Checkpoint
from ..core.device import Compute
from ..core.errors import TrainingError
from ..core.files import crash_point
from ..core.images import to_unit
from ..core.params import Block
from ..core.progress import track
from ..core.rng import stream
from ..losses.interpolation import beta_shares, mix
from .augment import Augment, augment_with, uniforms
from .learner import Learner, Optimizer

__all__ = [
    "Feed",
    "Minibatch",
    "Objective",
    "Pool",
    "Recipe",
    "Row",
    "Rows",
    "fit",
    "frozen",
    "mode",
    "order",
    "pick",
    "seeded",
]

Row = dict[str, float]
Rows = dict[str, Tensor]

_CHUNK = 64  # steps whose random numbers are drawn, and moved to the device, at once


class Recipe(Block):
    """How a network is trained. An epoch is `steps_per_epoch` steps, whatever the size of the set; absent is off."""

    batch: PositiveInt  # images per step
    epochs: PositiveInt
    steps_per_epoch: PositiveInt
    optimizer: Optimizer
    warmup_epochs: NonNegativeFloat = 0.0  # linear from 0
    augment: Augment | None = None  # random views, drawn anew each time an image is used
    mixup: NonNegativeFloat = 0.0  # alpha of Beta(alpha, alpha), Zhang et al. (2018)

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return self.epochs * self.steps_per_epoch

    @property
    def warmup(self) -> float:
        """Steps of the warm-up."""
        return self.warmup_epochs * self.steps_per_epoch


class Feed(Protocol):
    """Where a training gets its batches from."""

    def batches(self, batch: int, steps: int, seed: int, epoch: int) -> Iterator[tuple[Tensor, Rows]]:
        """`steps` batches of `batch` float images in [0, 1] with their rows: a pure function of the arguments."""
        ...


@dataclass(frozen=True, slots=True)
class Minibatch:
    """One batch as the network sees it."""

    images: Tensor  # [B, C, H, W] float32 in [0, 1], augmented and mixed
    rows: Mapping[str, Tensor]  # what belongs to each image, not mixed
    lam: Tensor | None  # [B] in [0, 1]: how much of each image is its own; None without mixup
    step: int  # of the whole run, from 0: an objective's own random numbers are a function of the seed and of this

    def mixed(self, row: Tensor) -> Tensor:
        """Interpolate [B, K] labels or logits as the images were."""
        return row if self.lam is None else mix(row, self.lam)


# Logits [B, K] and the batch they belong to, to named scalars: "loss" is minimised, all are averaged into the history.
Objective = Callable[[Tensor, Minibatch], dict[str, Tensor]]


def fit(
    net: nn.Module,
    feed: Feed,
    objective: Objective,
    recipe: Recipe,
    compute: Compute,
    seed: int,
    checkpoint: Checkpoint | None,
    after_epoch: Callable[[], Row] | None = None,
    what: str = "training",
) -> list[Row]:
    """Train `net` in place.

    Killed at any moment and called again with the same arguments, it ends with the same weights and history, bit for
    bit on a CPU, as if it had never been killed. Neither torch's global generators nor module modes are changed.

    Args:
        net: takes [0, 1] images, so it owns its normalisation; moved to the device and layout of `compute`.
        feed: a `Pool`, or another source of batches.
        objective: logits and batch to scalars, one of them "loss"; the parameters of one that is a module learn too.
        recipe: what to do.
        compute: where, in which precision.
        seed: of the order, the augmentation, the mixing and the dropout.
        checkpoint: state after each epoch, of this training alone; None: not resumable.
        after_epoch: called with the network in evaluation mode; what it returns joins the epoch's row.
        what: the progress bar's name.

    Returns:
        A row per epoch: epoch (from 1), loss and the objective's other scalars (means over the epoch's steps),
        learning_rate (of the last step), and what `after_epoch` returned.

    Raises:
        TrainingError: the loss is not finite.
        WorkError: the checkpoint is of another run, damaged, or cannot be written.
    """
    whole = nn.ModuleList([net, objective]) if isinstance(objective, nn.Module) else net
    compute.place(whole)
    learner = Learner(whole, recipe.optimizer, recipe.steps, recipe.warmup)
    history = _resume(learner, checkpoint)
    # On a CPU a compiled training step gains two percent, which no length of a training makes worth while.
    forward: Callable[[Tensor], Tensor] = compute.compiled(net, calls=recipe.steps, flops=0)
    for epoch in track(range(len(history), recipe.epochs), what, unit="epoch"):
        with mode(whole, training=True), seeded(seed, "training/layers", epoch):
            row = _epoch(learner, forward, _minibatches(feed, recipe, compute, seed, epoch), objective, recipe, compute)
        row = {"epoch": epoch + 1, **row}
        if after_epoch is not None:
            with mode(whole, training=False):
                row |= after_epoch()
        history.append(row)
        if checkpoint is not None:
            checkpoint.save({"learner": learner.state(), "history": history})
        crash_point("training:epoch")
    return history


def _resume(learner: Learner, checkpoint: Checkpoint | None) -> list[Row]:
    state = None if checkpoint is None else checkpoint.load()
    if state is None:
        return []
    learner.load(state["learner"])
    return state["history"]


def _epoch(
    learner: Learner,
    forward: Callable[[Tensor], Tensor],
    batches: Iterator[Minibatch],
    objective: Objective,
    recipe: Recipe,
    compute: Compute,
) -> Row:
    totals: dict[str, Tensor] = {}
    last = 0
    for batch in batches:
        with compute.autocast():
            scores = objective(forward(batch.images), batch)
        learner.step(scores["loss"], batch.step)
        last = batch.step
        for name, score in scores.items():
            # Summed on the device: reading a value here would make the host wait at every step.
            total = totals.setdefault(name, torch.zeros((), dtype=torch.float64, device=batch.images.device))
            total += score.detach()
    means = {name: float(total) / recipe.steps_per_epoch for name, total in totals.items()}
    if not math.isfinite(means["loss"]):
        raise TrainingError(
            f"epoch {last // recipe.steps_per_epoch + 1}: the loss is {means['loss']}; lower learning_rate "
            f"({recipe.optimizer.learning_rate}), lengthen warmup_epochs or set clip_norm"
        )
    return {**means, "learning_rate": learner.rate(last)}


def _minibatches(feed: Feed, recipe: Recipe, compute: Compute, seed: int, epoch: int) -> Iterator[Minibatch]:
    """The epoch's batches, augmented and mixed; all randomness is a function of (seed, epoch)."""
    batches = feed.batches(recipe.batch, recipe.steps_per_epoch, seed, epoch)
    draws = _draws(recipe, stream(seed, "training/views", epoch), compute.torch_device())
    layout = torch.channels_last if compute.channels_last else torch.contiguous_format
    first = epoch * recipe.steps_per_epoch
    for step, ((images, rows), (numbers, lam)) in enumerate(zip(batches, draws, strict=False), start=first):
        seen = augment_with(images, recipe.augment, numbers)
        seen = seen if lam is None else mix(seen, lam)
        yield Minibatch(seen.contiguous(memory_format=layout), rows, lam, step)


def _draws(recipe: Recipe, rng: torch.Generator, device: torch.device) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Random numbers of each step, drawn for many steps at once."""
    while True:
        numbers = uniforms(_CHUNK * recipe.batch, rng, device).unflatten(0, (_CHUNK, recipe.batch))
        if recipe.mixup == 0:
            yield from ((each, None) for each in numbers)
            continue
        lams = beta_shares(recipe.mixup, (_CHUNK, recipe.batch), rng)
        yield from zip(numbers, lams.to(device), strict=True)


class Pool:
    """Images and what belongs to each, in memory on one device: a `Feed`."""

    def __init__(self, images: Tensor, rows: Mapping[str, Tensor], device: torch.device) -> None:
        """Move a set to the device.

        Args:
            images: [N, C, H, W], uint8, or float in [0, 1]; kept as they are, made float32 batch by batch.
            rows: tensors with N rows, by name: labels, logits.
            device: where the training runs.

        Raises:
            TrainingError: no image at all, or rows of another length.
        """
        if len(images) == 0:
            raise TrainingError("the training set holds no image; make at least one")
        for name, row in rows.items():
            if len(row) != len(images):
                raise TrainingError(f"the training set has {len(images)} images and {len(row)} rows of {name}")
        self.images = images.to(device)
        self.rows = {name: row.to(device) for name, row in rows.items()}

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)

    def batches(self, batch: int, steps: int, seed: int, epoch: int) -> Iterator[tuple[Tensor, Rows]]:
        """Batches along `order`, as in `Feed`."""
        places = order(len(self), epoch * steps * batch, steps * batch, seed).to(self.images.device)
        for chosen in places.view(steps, batch):
            yield pick(self.images, self.rows, chosen)


def pick(images: Tensor, rows: Mapping[str, Tensor], chosen: Tensor) -> tuple[Tensor, Rows]:
    """Float images and rows of these indices; `index_select` is ten times faster than indexing on a CPU."""
    return to_unit(images.index_select(0, chosen)), {name: row.index_select(0, chosen) for name, row in rows.items()}


def order(count: int, start: int, length: int, seed: int) -> Tensor:
    """Positions `start` .. `start + length` of an endless walk that visits each of `count` samples once per pass.

    Every pass is a fresh permutation, a pure function of (seed, pass), so that an epoch can be any number of steps,
    every batch is full, and a resumed run goes on with the batches it would have had.

    Returns:
        [length] int64 indices.
    """
    first, last = start // count, (start + length - 1) // count
    passes = [
        torch.randperm(count, generator=stream(seed, "training/order", index)) for index in range(first, last + 1)
    ]
    return torch.cat(passes)[start - first * count :][:length]


@contextmanager
def mode(net: nn.Module, *, training: bool) -> Iterator[None]:
    """Put every module into training or evaluation mode; each finds its own former mode afterwards."""
    before = [(module, module.training) for module in net.modules()]
    net.train(training)
    try:
        yield
    finally:
        for module, was in before:
            module.training = was


@contextmanager
def frozen(net: nn.Module) -> Iterator[None]:
    """Evaluation mode, and no parameter requires a gradient; each is put back as it was afterwards."""
    before = [(parameter, parameter.requires_grad) for parameter in net.parameters()]
    with mode(net, training=False):
        net.requires_grad_(requires_grad=False)
        try:
            yield
        finally:
            for parameter, was in before:
                parameter.requires_grad_(was)


@contextmanager
def seeded(seed: int, purpose: str, index: int = 0) -> Iterator[None]:
    """Seed torch's global generators for layers that draw from them (dropout), and restore their states at the end."""
    devices = list(range(torch.cuda.device_count()))
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(stream(seed, purpose, index).initial_seed())
        yield
