"""Class impressions: Mopuri et al., "Ask, Acquire, and Attack" (ECCV 2018); the baseline of the ZSKD paper."""

from typing import ClassVar

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from pipeline.augment import Augment, augment
from pipeline.core.checkpoint import Checkpoint
from pipeline.core.device import Compute
from pipeline.core.params import Block
from pipeline.methods import Batch, Source
from pipeline.synthesis.descend import Adam, Bound, descend, quick
from pipeline.synthesis.labels import balanced, one_hot
from pipeline.synthesis.losses import negative_logit
from pipeline.synthesis.start import Start
from pipeline.teacher.model import Teacher

__all__ = ["Method"]


class Method(Block):
    """Images that maximise one class's logit under small random transforms, until a random confidence is reached.

    x = argmax T_c(x), the pre-softmax logit. Each image has its own target confidence, drawn uniformly from a range:
    stopping at different confidences is what makes the impressions of one class differ. An image that never gets
    there is kept as it is after the last step.

    Departure: the confidence is looked at every `check_every` steps on the untransformed image, since that is the
    image that is stored.
    """

    data_free: ClassVar[bool] = True
    soft_targets: ClassVar[bool] = False
    batch_norm: ClassVar[bool] = False
    attaches: ClassVar[bool] = False
    reads: ClassVar[tuple[str, ...]] = ()

    confidence: tuple[PositiveFloat, PositiveFloat]  # range of the softmax confidence at which an image is done
    views: Augment  # a new random view of each image at each step
    start: Start
    steps: PositiveInt  # Adam steps at most
    check_every: PositiveInt  # steps between two looks at the confidence
    learning_rate: PositiveFloat  # in [0, 1] pixel units
    bound: Bound
    batch: PositiveInt  # images optimised together; changes speed and memory, not the method

    def fit(self, teacher: Teacher, rng: torch.Generator, checkpoint: Checkpoint, compute: Compute) -> Source:  # noqa: ARG002
        """Nothing to fit."""
        return _Impressions(self, teacher, compute)


class _Impressions:
    def __init__(self, method: Method, teacher: Teacher, compute: Compute) -> None:
        self.method, self.teacher, self.compute = method, teacher, compute
        shape = (method.batch, teacher.info.channels, teacher.info.size, teacher.info.size)
        self._losses = quick(self._loss_of, teacher, shape, method.steps, compute)

    def draw(self, count: int, rng: torch.Generator, index: int) -> Batch:  # noqa: ARG002
        info = self.teacher.info
        labels = balanced(count, len(info.classes), rng)
        low, high = self.method.confidence
        wanted = low + (high - low) * torch.rand(count, generator=rng)
        start = self.method.start.draw((count, info.channels, info.size, info.size), rng)
        size = self.method.batch
        chunks = zip(start.split(size), labels.split(size), wanted.split(size), strict=True)
        images = [self._optimise(*chunk, rng) for chunk in chunks]
        return Batch(torch.cat(images), one_hot(labels, len(info.classes)))

    def _optimise(self, images: Tensor, labels: Tensor, wanted: Tensor, rng: torch.Generator) -> Tensor:
        method, device = self.method, self.compute.torch_device()
        images, labels = images.to(device), labels.to(device)
        reached = _Reached(self.teacher, labels, wanted.to(device), method.check_every)

        last = descend(
            images,
            lambda pixels: self._losses(augment(pixels, method.views, rng), labels),
            steps=method.steps,
            adam=Adam(method.learning_rate),
            bound=method.bound,
            compute=self.compute,
            watch=reached,
        )
        return reached.fill(last)

    def _loss_of(self, view: Tensor, labels: Tensor) -> Tensor:
        return negative_logit(self.teacher(view), labels)


class _Reached:
    """Keeps a copy of each image from the first look at which it was confident enough."""

    def __init__(self, teacher: Teacher, labels: Tensor, wanted: Tensor, every: int) -> None:
        self._teacher, self._labels, self._wanted, self._every = teacher, labels, wanted, every
        self._done = torch.zeros_like(labels, dtype=torch.bool)
        self._kept: Tensor | None = None

    def __call__(self, images: Tensor, steps: int) -> bool:
        if steps % self._every:
            return False
        confidence = self._teacher(images).softmax(1).gather(1, self._labels.unsqueeze(1)).squeeze(1)
        new = (confidence >= self._wanted) & ~self._done
        kept = images if self._kept is None else self._kept
        self._kept = torch.where(new.view(-1, 1, 1, 1), images, kept)
        self._done = self._done | new
        return bool(self._done.all())

    def fill(self, last: Tensor) -> Tensor:
        """The kept copies, and the last iterate where there is none; [N, C, H, W]."""
        if self._kept is None:
            return last
        return torch.where(self._done.view(-1, 1, 1, 1), self._kept, last).contiguous()
