"""The control: images that know nothing of the teacher."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from pipeline.core.checkpoint import Checkpoint
from pipeline.core.device import Compute
from pipeline.core.params import Block
from pipeline.methods import Batch, Source
from pipeline.synthesis.labels import one_hot
from pipeline.teacher.model import Teacher, TeacherInfo

__all__ = ["Method"]

_CHUNK = 256  # images per forward pass


class Method(Block):
    """Independent pixels, labelled by the teacher like every dataset; what a method must beat to count.

    ``uniform`` is U[0, 1]; ``normal`` is N(0, 1) in the teacher's normalised space, clamped to valid pixels.
    """

    data_free: ClassVar[bool] = True
    soft_targets: ClassVar[bool] = False
    batch_norm: ClassVar[bool] = False
    attaches: ClassVar[bool] = False
    reads: ClassVar[tuple[str, ...]] = ()

    distribution: Literal["uniform", "normal"]

    def fit(self, teacher: Teacher, rng: torch.Generator, checkpoint: Checkpoint, compute: Compute) -> Source:  # noqa: ARG002
        """Nothing to fit."""
        return _Noise(self.distribution, teacher, compute.torch_device())


@dataclass(frozen=True)
class _Noise:
    distribution: Literal["uniform", "normal"]
    teacher: Teacher
    device: torch.device

    def draw(self, count: int, rng: torch.Generator, index: int) -> Batch:  # noqa: ARG002
        info = self.teacher.info
        shape = (count, info.channels, info.size, info.size)
        if self.distribution == "uniform":
            images = torch.rand(shape, generator=rng)
        else:
            images = _denormalise(torch.randn(shape, generator=rng), info)
        return Batch(images, _answers(self.teacher, images, self.device))


@torch.no_grad()
def _answers(teacher: Teacher, images: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Noise is steered nowhere; the class it is filed under is the teacher's own answer."""
    answers = torch.cat([teacher(chunk.to(device)).argmax(1).cpu() for chunk in images.split(_CHUNK)])
    return one_hot(answers, len(teacher.info.classes))


def _denormalise(images: torch.Tensor, info: TeacherInfo) -> torch.Tensor:
    mean, std = (torch.tensor(value).view(1, -1, 1, 1) for value in (info.mean, info.std))
    return (images * std + mean).clamp(0, 1)
