"""Class impressions: Mopuri et al., "Ask, Acquire, and Attack" (ECCV 2018); the baseline of the ZSKD paper."""

from typing import Annotated

import torch
from pydantic import Field, PositiveFloat, PositiveInt, field_validator
from torch import Tensor

from ..classifier import Teacher
from ..core.device import Compute
from ..losses.logits import negative_logit
from ..optimise.augment import Augment, augment
from ..optimise.pixels import Adam, Bound, Init, balanced, descend, one_hot, quick
from ..optimise.source import BaseMethod, Batch, Run, Source

__all__ = ["Method"]

_Confidence = Annotated[float, Field(gt=0, lt=1)]


class Method(BaseMethod):
    """Images that maximise one class's logit under small random transforms, until a random confidence is reached.

    x = argmax T_c(x), the pre-softmax logit. Each image has its own target confidence, drawn uniformly from a range:
    stopping at different confidences is what makes the impressions of one class differ. An image that never gets
    there is kept as it is after the last step.

    Departure: the confidence is that of the image as it is stored, neither transformed nor beyond [0, 1] and with 256
    levels, and it is looked at every `check_every` steps.
    """

    confidence: tuple[_Confidence, _Confidence]  # range of the softmax confidence at which an image is done
    augment: Augment | None  # a new random augmentation of each image at each step
    init: Init
    steps: PositiveInt  # Adam steps at most
    check_every: PositiveInt  # steps between two looks at the confidence
    learning_rate: PositiveFloat  # in [0, 1] pixel units
    bound: Bound
    batch: PositiveInt  # images optimised together; changes speed and memory, not the method

    @field_validator("confidence")
    @classmethod
    def _rising(cls, value: tuple[float, float]) -> tuple[float, float]:
        if value[0] > value[1]:
            raise ValueError("expected the lower confidence first")
        return value

    def fit(self, run: Run) -> Source:
        """Nothing to fit."""
        return _Impressions(self, run.teacher, run.compute)


class _Impressions:
    def __init__(self, method: Method, teacher: Teacher, compute: Compute) -> None:
        self.method, self.teacher, self.compute = method, teacher, compute
        shape = (method.batch, teacher.card.channels, teacher.card.size, teacher.card.size)
        self._losses = quick(self._loss, teacher, shape, method.steps, compute)

    def draw(self, count: int, rng: torch.Generator) -> Batch:
        method, card = self.method, self.teacher.card
        labels = balanced(count, len(card.classes), rng)
        low, high = method.confidence
        wanted = low + (high - low) * torch.rand(count, generator=rng)
        start = method.init.draw((count, card.channels, card.size, card.size), rng)
        chunks = zip(start.split(method.batch), labels.split(method.batch), wanted.split(method.batch), strict=True)
        images = [self._optimise(*chunk, rng) for chunk in chunks]
        return Batch(torch.cat(images), one_hot(labels, len(card.classes)))

    def _optimise(self, images: Tensor, labels: Tensor, wanted: Tensor, rng: torch.Generator) -> Tensor:
        method, device = self.method, self.compute.torch_device()
        images, labels = images.to(device), labels.to(device)
        reached = _Reached(self.teacher, labels, wanted.to(device), method.check_every)

        last = descend(
            images,
            lambda pixels: self._losses(augment(pixels, method.augment, rng), labels),
            steps=method.steps,
            adam=Adam(method.learning_rate),
            bound=method.bound,
            compute=self.compute,
            watch=reached,
        )
        return reached.fill(last)

    def _loss(self, images: Tensor, labels: Tensor) -> Tensor:
        return negative_logit(self.teacher(images), labels)


class _Reached:
    """Keeps a copy of each image from the first look at which it was confident enough."""

    def __init__(self, teacher: Teacher, labels: Tensor, wanted: Tensor, every: int) -> None:
        self._teacher, self._labels, self._wanted, self._every = teacher, labels, wanted, every
        self._done = torch.zeros_like(labels, dtype=torch.bool)
        self._kept: Tensor | None = None

    def __call__(self, pixels: Tensor, steps: int) -> bool:
        if steps % self._every:
            return False
        images = pixels.clamp(0, 1)
        stored = images.mul(255).round().div(255)
        confidence = self._teacher(stored).softmax(1).gather(1, self._labels.unsqueeze(1)).squeeze(1)
        new = (confidence >= self._wanted) & ~self._done
        self._kept = torch.where(new.view(-1, 1, 1, 1), images, images if self._kept is None else self._kept)
        self._done = self._done | new
        return bool(self._done.all())

    def fill(self, last: Tensor) -> Tensor:
        """The kept copies, and the last iterate where there is none; [N, C, H, W]."""
        if self._kept is None:
            return last
        return torch.where(self._done.view(-1, 1, 1, 1), self._kept, last).contiguous()
