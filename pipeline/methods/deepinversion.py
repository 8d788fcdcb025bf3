"""DeepInversion: Yin et al., "Dreaming to Distill: Data-free Knowledge Transfer via DeepInversion" (CVPR 2020)."""

from typing import Annotated, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, cross_entropy

from ..core.errors import ParamsError, TeacherError
from ..core.params import Block
from ..losses.batch_norm import BatchNormStatistics
from ..losses.images import norm, total_variation_l2
from ..losses.logits import jensen_shannon
from ..nets.probe import answer
from ..optimise.augment import Augment, augment
from ..optimise.pixels import (
    Adam,
    Bound,
    Init,
    Keep,
    Schedule,
    balanced,
    batches_of_groups,
    descend,
    one_hot,
    quick,
    roll,
)
from ..optimise.source import BaseMethod, Batch, Needs, Numbered, Run, Source
from . import needing_batch_norm

__all__ = ["Inversion", "Method", "Phase", "Rival"]

_Beta = Annotated[float, Field(ge=0, lt=1)]


class Phase(Block):
    """A part of the optimisation, at one resolution, with an optimiser of its own."""

    pool: PositiveInt  # the teacher sees averages over pool x pool pixels; 1: the image as it is
    steps: PositiveInt  # Adam steps
    jitter: NonNegativeInt  # px, at that resolution: the largest roll along each axis


class Method(BaseMethod):
    """Images that the teacher is sure of and whose BatchNorm statistics are those of the training data.

    x = argmin CE(T(x'), y) + bn * R_bn(x') + total_variation * R_tv(x') + l2 * R_l2(x'), equations 1 to 4, where x' is
    x after a random augmentation and a random roll, R_bn is `BatchNormStatistics`, R_tv `total_variation_l2` and R_l2
    the mean of `norm`, all of them on images normalised as the teacher wants them. Means, variances and R_tv are taken
    over a `group` of images, which is a part of the method: the group as a whole must look like data.

    Published settings, with the released code in brackets where it differs. CIFAR-10: group 256, 2,000 steps, Adam
    with rate 0.05 in normalised units (about 0.012 in [0, 1] units; its default is 0.1), bn 10 (1 to 100 by teacher),
    total_variation 2.5e-5, l2 3e-8 (0; a norm over the whole batch, so 16 times ours), roll +-2, no flip, pixels free.
    ImageNet: group 84, 2,000 steps at half resolution with roll +-15, then 1,000 at full resolution with +-30, flips,
    betas 0.5 and 0.9, cosine after a warm-up of 100 steps, rate 0.25, bn 0.01, first_layer 10 (not in the paper),
    total_variation 1e-4, l2 1e-5, clamped after each step.

    Departures: `labels` balanced also spreads the classes over the groups (the CIFAR-10 script gives each batch every
    class equally often or draws at random, the ImageNet script lists 42 classes of its authors' choice); rate and
    starting point are in [0, 1] pixel units; `keep` best keeps a copy (the CIFAR-10 script keeps a reference, which is
    the last iterate); each image is augmented by itself (the scripts flip the whole batch at once); the losses of
    groups are summed, so that several can be optimised side by side without knowing of each other.
    """

    needs: ClassVar[Needs] = Needs(batch_norm=True)

    labels: Literal["balanced", "random"]  # random: each drawn on its own
    group: PositiveInt  # images that share statistics
    groups: PositiveInt  # groups optimised side by side; changes speed and memory, not the method
    bn: PositiveFloat  # alpha_f, the weight of R_bn
    first_layer: PositiveFloat  # factor on the first layer's term of R_bn
    total_variation: NonNegativeFloat  # alpha_tv, the weight of R_tv
    l2: NonNegativeFloat  # alpha_l2, the weight of R_l2
    augment: Augment | None  # a new random augmentation of each image at each step
    init: Init
    phases: tuple[Phase, ...] = Field(min_length=1)  # one after the other
    learning_rate: PositiveFloat  # in [0, 1] pixel units
    betas: tuple[_Beta, _Beta]
    schedule: Schedule  # of each phase
    warmup: NonNegativeInt  # steps of each phase
    bound: Bound
    keep: Keep  # of each phase

    def check(self, channels: int, size: int, classes: int) -> list[str]:  # noqa: ARG002
        """As in `BaseMethod`: every pool divides the image, or its last pixels would never be seen."""
        return [
            f"{self.key}.phases.{place}.pool: {phase.pool}: expected a divisor of the image's {size} pixels"
            for place, phase in enumerate(self.phases)
            if size % phase.pool
        ]

    def fit(self, run: Run) -> Source | Numbered:
        """Nothing to fit.

        Raises:
            TeacherError: the teacher has no BatchNorm layers.
            ParamsError: as `check` finds, or an image that is pooled is too small for the teacher.
        """
        self.require(run)
        return Inversion(self, run)


class Rival(NamedTuple):
    """Another network that the images should puzzle, as adaptive DeepInversion wants it."""

    net: nn.Module  # frozen, of normalised images, on the device
    weight: float  # alpha_c, the weight of 1 - JS
    temperature: float  # tau, of the predictions that are compared


class Inversion:
    """Draws groups of images; with a rival, images on which that network disagrees with the teacher."""

    def __init__(self, method: Method, run: Run, rival: Rival | None = None) -> None:
        """Prepare the step; nothing is changed on the teacher.

        Args:
            method: the settings.
            run: with the teacher.
            rival: what to compete with.

        Raises:
            TeacherError: the teacher has no BatchNorm layers.
            ParamsError: an image that is pooled is too small for a network.
        """
        self._method, self._teacher, self._compute, self._rival = method, run.teacher, run.compute, rival
        card = run.teacher.card
        self._statistics = BatchNormStatistics(run.teacher.net, method.group, method.first_layer)
        if not self._statistics.layers:
            raise TeacherError(needing_batch_norm(f"teacher {card.arch}"))
        _require_large_enough(method, run, run.teacher.net if rival is None else rival.net)
        shape = (method.group * method.groups, card.channels, card.size, card.size)
        steps = max(phase.steps for phase in method.phases)
        self._losses = quick(self._loss, run.teacher, shape, steps, run.compute)

    def draw(self, count: int, rng: torch.Generator) -> Batch:
        """As in `Source`."""
        card = self._teacher.card
        labels = self._labels(count, len(card.classes), rng)
        start = self._method.init.draw((count, card.channels, card.size, card.size), rng)
        images = [
            self._optimise(start[part.images], labels[part.images], part.group, rng)
            for part in batches_of_groups(count, self._method.group, self._method.groups)
        ]
        return Batch(torch.cat(images).cpu(), one_hot(labels, len(card.classes)))

    def _labels(self, count: int, classes: int, rng: torch.Generator) -> Tensor:
        if self._method.labels == "random":
            return torch.randint(classes, (count,), generator=rng)
        # Classes take turns in a random order, so that every group holds as many of them, as equally often, as it can.
        return torch.randperm(classes, generator=rng)[balanced(count, classes, rng)]

    def _optimise(self, images: Tensor, labels: Tensor, group: int, rng: torch.Generator) -> Tensor:
        """Whole groups of `group` images through all phases."""
        method, device = self._method, self._compute.torch_device()
        images, labels = images.to(device), labels.to(device)
        adam = Adam(method.learning_rate, method.betas, method.schedule, method.warmup)
        self._statistics.group = group
        with self._statistics:
            for phase in method.phases:

                def objective(pixels: Tensor, phase: Phase = phase) -> Tensor:
                    seen = pixels if phase.pool == 1 else avg_pool2d(pixels, phase.pool)
                    return self._losses(roll(augment(seen, method.augment, rng), phase.jitter, rng), labels)

                images = descend(
                    images,
                    objective,
                    steps=phase.steps,
                    adam=adam,
                    bound=method.bound,
                    compute=self._compute,
                    keep=method.keep,
                )
        return images

    def _loss(self, seen: Tensor, labels: Tensor) -> Tensor:
        """The loss of each group, [groups]."""
        method, group = self._method, self._statistics.group
        seen = self._teacher.normalise(seen)
        logits = self._teacher.net(seen).float()
        each = cross_entropy(logits, labels, reduction="none")
        if method.l2 > 0:
            each = each + method.l2 * norm(seen)
        if self._rival is not None:
            net, weight, temperature = self._rival
            each = each + weight * (1 - jensen_shannon(logits, net(seen), temperature))
        losses = each.unflatten(0, (-1, group)).mean(1) + method.bn * self._statistics.take()
        if method.total_variation > 0:
            losses = losses + method.total_variation * total_variation_l2(seen, group)
        return losses


def _require_large_enough(method: Method, run: Run, net: nn.Module) -> None:
    """Show the network a blank image of each phase's size."""
    card = run.teacher.card
    for place, phase in enumerate(method.phases):
        side = card.size // phase.pool
        try:
            if phase.pool > 1:
                answer(net, torch.zeros(1, card.channels, side, side, device=run.compute.torch_device()))
        except RuntimeError as error:
            raise ParamsError(
                f"{method.key}.phases.{place}.pool: {phase.pool}: leaves images of {side} pixels, too small for "
                f"{type(net).__name__}; lower it"
            ) from error
