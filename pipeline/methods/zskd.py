"""Data impressions: ZSKD, Nayak et al., "Zero-Shot Knowledge Distillation in Deep Networks" (ICML 2019)."""

from typing import ClassVar

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from pipeline.augment import Augment, augment
from pipeline.core.checkpoint import Checkpoint
from pipeline.core.device import Compute
from pipeline.core.params import Block
from pipeline.methods import Batch, Source
from pipeline.synthesis.descend import Adam, Bound, descend, quick
from pipeline.synthesis.labels import balanced, class_similarity, concentrations, dirichlet_targets
from pipeline.synthesis.losses import softened_cross_entropy
from pipeline.synthesis.priors import total_variation
from pipeline.synthesis.start import Start
from pipeline.teacher.model import Teacher

__all__ = ["Method"]


class Method(Block):
    """Images whose softened prediction matches a label distribution drawn from the class-similarity matrix.

    y ~ Dir(beta * minmax(C_k)), x = argmin CE(y, softmax(T(x) / tau)), Adam on the pixels from uniform noise.

    Departures from the released code, which we take to be slips since the paper says otherwise: every beta takes
    effect (there the second normalisation cancels it), every batch starts from fresh noise with a fresh optimiser
    (there from the previous batch's images), and pixels are brought into range per image (there per batch).

    Additions, each off when its parameter says so: random `views` at every step, a coarse `start` and a
    `total_variation` prior. The paper has none of them (neutral views; a uniform
    start with level and spread 0.5 at full resolution; weight 0). They turn high-frequency patterns into shapes,
    which helps students far more than more steps do.
    """

    data_free: ClassVar[bool] = True
    soft_targets: ClassVar[bool] = True
    batch_norm: ClassVar[bool] = False
    attaches: ClassVar[bool] = False
    reads: ClassVar[tuple[str, ...]] = ()

    concentrations: tuple[PositiveFloat, ...] = Field(min_length=1)  # beta; images are shared evenly among them
    floor: PositiveFloat  # added to each Dirichlet concentration, which must be positive
    temperature: PositiveFloat  # tau
    views: Augment  # a new random view of each image at each step
    start: Start
    total_variation: NonNegativeFloat  # weight of the l1 total variation beside the cross-entropy
    steps: PositiveInt  # Adam steps per image
    learning_rate: PositiveFloat  # in [0, 1] pixel units
    bound: Bound
    batch: PositiveInt  # images optimised together; changes speed and memory, not the method

    def fit(self, teacher: Teacher, rng: torch.Generator, checkpoint: Checkpoint, compute: Compute) -> Source:  # noqa: ARG002
        """Compute the class-similarity matrix; nothing is trained.

        Raises:
            TeacherError: the teacher does not end in a linear layer.
        """
        similarity = class_similarity(teacher.head.weight)
        alphas = torch.stack([concentrations(similarity, beta, self.floor) for beta in self.concentrations])
        return _Impressions(self, teacher, alphas, compute)


class _Impressions:
    def __init__(self, method: Method, teacher: Teacher, alphas: Tensor, compute: Compute) -> None:
        self.method, self.teacher, self.compute = method, teacher, compute
        self.alphas = alphas  # [betas, K, K]
        shape = (method.batch, teacher.info.channels, teacher.info.size, teacher.info.size)
        self._losses = quick(self._loss_of, teacher, shape, method.steps, compute)

    def draw(self, count: int, rng: torch.Generator, index: int) -> Batch:  # noqa: ARG002
        info = self.teacher.info
        betas, classes = self.alphas.shape[:2]
        groups = balanced(count, betas * classes, rng)
        targets = dirichlet_targets(self.alphas[groups // classes, groups % classes], rng)
        start = self.method.start.draw((count, info.channels, info.size, info.size), rng)
        chunks = zip(start.split(self.method.batch), targets.split(self.method.batch), strict=True)
        return Batch(torch.cat([self._optimise(images, wanted, rng) for images, wanted in chunks]), targets)

    def _optimise(self, images: Tensor, targets: Tensor, rng: torch.Generator) -> Tensor:
        method = self.method
        device = self.compute.torch_device()
        targets = targets.to(device)

        return descend(
            images.to(device),
            lambda pixels: self._losses(augment(pixels, method.views, rng), pixels, targets),
            steps=method.steps,
            adam=Adam(method.learning_rate),
            bound=method.bound,
            compute=self.compute,
        )

    def _loss_of(self, view: Tensor, pixels: Tensor, targets: Tensor) -> Tensor:
        losses = softened_cross_entropy(self.teacher(view), targets, self.method.temperature)
        if self.method.total_variation == 0:
            return losses
        return losses + self.method.total_variation * total_variation(pixels)
