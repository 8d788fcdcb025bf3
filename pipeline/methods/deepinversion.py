"""DeepInversion: Yin et al., "Dreaming to Distill: Data-free Knowledge Transfer via DeepInversion" (CVPR 2020)."""

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, cross_entropy

from pipeline.augment import Augment, augment
from pipeline.core.checkpoint import Checkpoint
from pipeline.core.device import Compute
from pipeline.core.errors import TeacherError
from pipeline.core.params import Block
from pipeline.methods import Batch, Source, needing_batch_norm
from pipeline.synthesis.descend import Adam, Bound, Keep, Schedule, descend, quick
from pipeline.synthesis.groups import batches_of_groups
from pipeline.synthesis.jitter import roll
from pipeline.synthesis.labels import balanced, one_hot
from pipeline.synthesis.losses import jensen_shannon
from pipeline.synthesis.priors import norm, total_variation_l2
from pipeline.synthesis.start import Start
from pipeline.synthesis.statistics import BatchNormStatistics
from pipeline.teacher.model import Teacher

__all__ = ["Inversion", "Method", "Phase", "Rival"]

_Beta = Annotated[float, Field(ge=0, lt=1)]


class Phase(Block):
    """A part of the optimisation, at one resolution, with an optimiser of its own."""

    pool: PositiveInt  # the teacher sees averages over pool x pool pixels; 1: the image as it is
    steps: PositiveInt  # Adam steps
    jitter: NonNegativeInt  # px, at that resolution: the largest roll along each axis


class Method(Block):
    """Images that the teacher is sure of and whose BatchNorm statistics are those of the training data.

    x = argmin CE(T(x'), y) + statistics * R_bn(x') + total_variation * R_tv(x') + l2 * R_l2(x'), equations 1 to 4,
    where x' is x after a random view and a random roll, R_bn is `BatchNormStatistics`, R_tv `total_variation_l2` and
    R_l2 the mean of `norm`, all of them on images normalised as the teacher wants them. Means, variances and R_tv are
    taken over a `group` of images, which is a part of the method: the group as a whole must look like data.

    Published settings, with the released code in brackets where it differs. CIFAR-10: group 256, 2,000 steps, Adam
    with rate 0.05 in normalised units (about 0.012 in [0, 1] units; its default is 0.1), statistics 10 (1 to 100 by
    teacher), total_variation 2.5e-5, l2 3e-8 (0; a norm over the whole batch, so 16 times ours), roll +-2, no flip,
    pixels free. ImageNet: group 84, 2,000 steps at half resolution with roll +-15, then 1,000 at full resolution with
    +-30, flips, betas 0.5 and 0.9, cosine after a warm-up of 100 steps, rate 0.25, statistics 0.01, first_layer 10
    (not in the paper), total_variation 1e-4, l2 1e-5, clamped after each step.

    Departures: `labels` balanced also spreads the classes over the groups (the CIFAR-10 script gives each batch every
    class equally often or draws at random, the ImageNet script lists 42 classes of its authors' choice); rate and
    starting point are in [0, 1] pixel units; `keep` best keeps a copy (the CIFAR-10 script keeps a reference, which is
    the last iterate); a view is drawn for each image (the scripts flip the whole batch at once); the losses of groups
    are summed, so that several can be optimised side by side without knowing of each other.
    """

    data_free: ClassVar[bool] = True
    soft_targets: ClassVar[bool] = False
    batch_norm: ClassVar[bool] = True
    attaches: ClassVar[bool] = False
    reads: ClassVar[tuple[str, ...]] = ()

    labels: Literal["balanced", "random"]  # random: each drawn on its own
    group: PositiveInt  # images that share statistics
    groups: PositiveInt  # groups optimised side by side; changes speed and memory, not the method
    statistics: PositiveFloat  # alpha_f, the weight of R_bn
    first_layer: PositiveFloat  # factor on the first layer's term of R_bn
    total_variation: NonNegativeFloat  # alpha_tv, the weight of R_tv
    l2: NonNegativeFloat  # alpha_l2, the weight of R_l2
    views: Augment  # a new random view of each image at each step
    start: Start
    phases: tuple[Phase, ...] = Field(min_length=1)  # one after the other
    learning_rate: PositiveFloat  # in [0, 1] pixel units
    betas: tuple[_Beta, _Beta]
    schedule: Schedule  # of each phase
    warmup: NonNegativeInt  # steps of each phase
    bound: Bound
    keep: Keep  # of each phase

    def fit(self, teacher: Teacher, rng: torch.Generator, checkpoint: Checkpoint, compute: Compute) -> Source:  # noqa: ARG002
        """Nothing to fit.

        Raises:
            TeacherError: the teacher has no BatchNorm layers.
        """
        return Inversion(self, teacher, compute)


class Rival(Block):
    """Another network that the images should puzzle, as adaptive DeepInversion wants it."""

    weight: PositiveFloat  # alpha_c, the weight of 1 - JS
    temperature: PositiveFloat  # tau, of the predictions that are compared


class Inversion:
    """Draws groups of images; with a rival, images on which that network disagrees with the teacher."""

    def __init__(
        self,
        method: Method,
        teacher: Teacher,
        compute: Compute,
        rival: tuple[Rival, nn.Module] | None = None,
    ) -> None:
        """Prepare the step; nothing is changed on the teacher.

        Args:
            method: the settings.
            teacher: on the device.
            compute: where and how.
            rival: how to compete, and with what: a frozen network of normalised images, on the device.

        Raises:
            TeacherError: the teacher has no BatchNorm layers.
        """
        self._method, self._teacher, self._compute, self._rival = method, teacher, compute, rival
        info = teacher.info
        self._statistics = BatchNormStatistics(teacher.net, method.group, method.first_layer)
        if not self._statistics.layers:
            raise TeacherError(needing_batch_norm(f"teacher {info.arch}"))
        shape = (method.group * method.groups, info.channels, info.size, info.size)
        steps = max(phase.steps for phase in method.phases)
        self._losses = quick(self._loss_of, teacher, shape, steps, compute)

    def draw(self, count: int, rng: torch.Generator, index: int) -> Batch:  # noqa: ARG002
        """As in `Source`."""
        info = self._teacher.info
        labels = self._labels(count, len(info.classes), rng)
        start = self._method.start.draw((count, info.channels, info.size, info.size), rng)
        images = [
            self._optimise(start[part.images], labels[part.images], part.group, rng)
            for part in batches_of_groups(count, self._method.group, self._method.groups)
        ]
        return Batch(torch.cat(images).cpu(), one_hot(labels, len(info.classes)))

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
                    return self._losses(roll(augment(seen, method.views, rng), phase.jitter, rng), labels)

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

    def _loss_of(self, view: Tensor, labels: Tensor) -> Tensor:
        """The loss of each group, [groups]."""
        method, group = self._method, self._statistics.group
        view = self._teacher.normalise(view)
        logits = self._teacher.net(view).float()
        each = cross_entropy(logits, labels, reduction="none")
        if method.l2 > 0:
            each = each + method.l2 * norm(view)
        if self._rival is not None:
            rival, net = self._rival
            each = each + rival.weight * (1 - jensen_shannon(logits, net(view), rival.temperature))
        losses = each.unflatten(0, (-1, group)).mean(1) + method.statistics * self._statistics.take()
        if method.total_variation > 0:
            losses = losses + method.total_variation * total_variation_l2(view, group)
        return losses
