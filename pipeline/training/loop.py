"""The training loop of teachers and students: no host synchronisation inside an epoch, resumable after each."""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.augment import DRAWS, view
from pipeline.core.checkpoint import Checkpoint
from pipeline.core.device import Compute
from pipeline.core.errors import TrainingError, WorkError
from pipeline.core.files import crash_point
from pipeline.core.progress import track
from pipeline.core.rng import generator, numpy_generator
from pipeline.training.optimiser import Optimiser
from pipeline.training.pool import Feed
from pipeline.training.recipe import Recipe, learning_rate
from pipeline.training.state import mode, seeded
from pipeline.transfer import mix

__all__ = ["Objective", "Row", "View", "fit"]

Row = dict[str, float]
_CHUNK = 64  # steps whose random numbers are drawn, and moved to the device, at once


@dataclass(frozen=True, slots=True)
class View:
    """One batch as the network sees it."""

    images: Tensor  # [B, C, H, W] float32 in [0, 1], augmented and mixed
    rows: Mapping[str, Tensor]  # what belongs to each image, not mixed
    share: Tensor | None  # [B] in [0, 1]: how much of each image is its own; None without mixup
    step: int  # of the whole run, from 0: an objective's own random numbers are a function of the seed and of this

    def mixed(self, row: Tensor) -> Tensor:
        """Interpolate [B, K] labels or logits as the images were."""
        return row if self.share is None else mix(row, self.share)


# Logits [B, K] and the batch they belong to, to named scalars: "loss" is minimised, all are averaged into the history.
Objective = Callable[[Tensor, View], dict[str, Tensor]]


def fit(
    net: nn.Module,
    feed: Feed,
    objective: Objective,
    recipe: Recipe,
    compute: Compute,
    seed: int,
    checkpoint: Checkpoint | None,
    after_epoch: Callable[[nn.Module], Row] | None = None,
    what: str = "training",
) -> list[Row]:
    """Train `net` in place.

    Killed at any moment and called again with the same arguments, it ends with the same weights and history, bit for
    bit on a CPU, as if it had never been killed. Neither torch's global generators nor module modes are changed.

    Args:
        net: takes [0, 1] images, so it owns its normalisation; moved to the device and layout of `compute`.
        feed: a `Pool`, or another source of batches.
        objective: logits and batch to scalars, one of them "loss".
        recipe: what to do.
        compute: where, in which precision.
        seed: of the order, the views, the mixing and the dropout.
        checkpoint: state after each epoch; None: not resumable.
        after_epoch: called with the network in evaluation mode; what it returns joins the epoch's row.
        what: the progress bar's name.

    Returns:
        A row per epoch: epoch (from 1), loss and the objective's other scalars (means over the epoch's steps),
        learning_rate (of the last step), and what `after_epoch` returned.

    Raises:
        TrainingError: the loss is not finite.
        WorkError: the checkpoint is of another run, or cannot be written.
    """
    compute.place(net)
    optimiser = Optimiser(recipe, net.parameters())
    run = _Run(net, optimiser, {"recipe": recipe.model_dump(mode="json"), "seed": seed})
    history = run.resume(checkpoint)
    step = _Step(net, optimiser, objective, recipe, compute)
    for epoch in track(range(len(history), recipe.epochs), what, unit="epoch"):
        with mode(net, training=True), seeded(seed, "training/layers", epoch):
            row = _epoch(step, feed, seed, epoch)
        if after_epoch is not None:
            with mode(net, training=False):
                row |= after_epoch(net)
        history.append(row)
        run.save(checkpoint, history)
        crash_point("training:epoch")
    return history


@dataclass(frozen=True)
class _Run:
    """What a checkpoint holds, and what it belongs to."""

    net: nn.Module
    optimiser: Optimiser
    identity: dict[str, Any]

    def save(self, checkpoint: Checkpoint | None, history: list[Row]) -> None:
        if checkpoint is not None:
            state = {"net": self.net.state_dict(), "optimiser": self.optimiser.state(), "history": history}
            checkpoint.save(state | {"identity": json.dumps(self.identity, sort_keys=True)})

    def resume(self, checkpoint: Checkpoint | None) -> list[Row]:
        state = None if checkpoint is None else checkpoint.load()
        if checkpoint is None or state is None:
            return []
        theirs = json.loads(state["identity"])
        if theirs != self.identity:
            raise WorkError(
                f"{checkpoint.path}: a checkpoint of another training ({_difference(theirs, self.identity)}); "
                "delete it, or go back to the parameters it was made with"
            )
        self.net.load_state_dict(state["net"])
        self.optimiser.load(state["optimiser"])
        return state["history"]


def _difference(theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    old, new = ({"seed": run["seed"], **run["recipe"]} for run in (theirs, ours))
    return ", ".join(
        f"{key}: {old.get(key)!r} there, {new.get(key)!r} here" for key in new if old.get(key) != new.get(key)
    )


class _Step:
    """One optimisation step, with everything that does not change between steps."""

    def __init__(
        self, net: nn.Module, optimiser: Optimiser, objective: Objective, recipe: Recipe, compute: Compute
    ) -> None:
        # On a CPU a compiled training step gains two percent, which no length of a training makes worth while.
        self.forward: Callable[[Tensor], Tensor] = compute.compiled(net, calls=recipe.steps, flops=0)
        self.optimiser, self.objective, self.recipe, self.compute = optimiser, objective, recipe, compute
        self.device = compute.torch_device()
        self.layout = torch.channels_last if compute.channels_last else torch.contiguous_format

    def __call__(self, batch: View) -> dict[str, Tensor]:
        with self.compute.autocast():
            logits = self.forward(batch.images)
            scores = self.objective(logits, batch)
        scores["loss"].backward()
        self.optimiser.clip(self.recipe.clip_norm)
        self.optimiser.step(learning_rate(self.recipe, batch.step))
        return scores


def _epoch(step: _Step, feed: Feed, seed: int, epoch: int) -> Row:
    recipe = step.recipe
    first = epoch * recipe.steps_per_epoch
    totals: dict[str, Tensor] = {}
    for batch in _views(step, feed, seed, epoch):
        for name, score in step(batch).items():
            # Summed on the device: reading a value here would make the host wait at every step.
            total = totals.setdefault(name, torch.zeros((), dtype=torch.float64, device=step.device))
            total += score.detach()
    means = {name: float(total) / recipe.steps_per_epoch for name, total in totals.items()}
    if not math.isfinite(means["loss"]):
        raise TrainingError(
            f"epoch {epoch + 1}: the loss is {means['loss']}; lower learning_rate ({recipe.learning_rate}), "
            "lengthen warmup_epochs or set clip_norm"
        )
    return {"epoch": epoch + 1, **means, "learning_rate": learning_rate(recipe, first + recipe.steps_per_epoch - 1)}


def _views(step: _Step, feed: Feed, seed: int, epoch: int) -> Iterator[View]:
    """The epoch's batches, augmented and mixed; all randomness is a function of (seed, epoch)."""
    recipe = step.recipe
    batches = feed.batches(recipe.batch, recipe.steps_per_epoch, seed, epoch)
    draws = _draws(recipe, generator(seed, "training/views", epoch), step.device)
    first = epoch * recipe.steps_per_epoch
    for index, ((images, rows), (uniforms, share)) in enumerate(zip(batches, draws, strict=False), start=first):
        seen = view(images, recipe.augment, uniforms)
        seen = seen if share is None else mix(seen, share)
        yield View(seen.contiguous(memory_format=step.layout), rows, share, index)


def _draws(recipe: Recipe, rng: torch.Generator, device: torch.device) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Random numbers of each step, drawn for many steps at once."""
    while True:
        uniforms = torch.rand(_CHUNK, recipe.batch, DRAWS, generator=rng).to(device)
        if recipe.mixup == 0:
            yield from ((numbers, None) for numbers in uniforms)
            continue
        shares = numpy_generator(rng).beta(recipe.mixup, recipe.mixup, (_CHUNK, recipe.batch))
        yield from zip(uniforms, torch.from_numpy(shares).float().to(device), strict=True)
