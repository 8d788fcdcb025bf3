"""The control: images that know nothing of the teacher."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from ..classifier import TeacherCard
from ..optimise.source import BaseMethod, Batch, Run, Source

__all__ = ["Method"]


class Method(BaseMethod):
    """Independent pixels, labelled by the teacher like every dataset; what a method must beat to count.

    ``uniform`` is U[0, 1]; ``normal`` is N(0, 1) in the teacher's normalised space, clamped to valid pixels.
    """

    steered: ClassVar[bool] = False

    distribution: Literal["uniform", "normal"]

    def fit(self, run: Run) -> Source:
        """Nothing to fit."""
        return _Noise(self.distribution, run.teacher.card)


@dataclass(frozen=True)
class _Noise:
    distribution: Literal["uniform", "normal"]
    card: TeacherCard

    def draw(self, count: int, rng: torch.Generator) -> Batch:
        shape = (count, self.card.channels, self.card.size, self.card.size)
        if self.distribution == "uniform":
            return Batch(torch.rand(shape, generator=rng), None)
        mean, std = (torch.tensor(value).view(1, -1, 1, 1) for value in (self.card.mean, self.card.std))
        return Batch((torch.randn(shape, generator=rng) * std + mean).clamp(0, 1), None)
