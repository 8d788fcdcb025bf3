"""Data impressions: ZSKD, Nayak et al., "Zero-Shot Knowledge Distillation in Deep Networks" (ICML 2019)."""

from typing import ClassVar

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from ..classifier import Teacher
from ..core.device import Compute
from ..core.rng import numpy_stream
from ..losses.images import total_variation
from ..losses.logits import softened_cross_entropy
from ..nets.probe import class_similarity
from ..optimise.augment import Augment, augment
from ..optimise.pixels import Adam, Bound, Init, balanced, descend, quick
from ..optimise.source import BaseMethod, Batch, Needs, Run, Source

__all__ = ["Method"]


class Method(BaseMethod):
    """Images whose softened prediction matches a label distribution drawn from the class-similarity matrix.

    y ~ Dir(alpha_k), alpha_k = beta * minmax(C_k), x = argmin CE(y, softmax(T(x) / tau)), Adam on the pixels from
    uniform noise (sections 3.2 and 3.3).

    Departures from the released code, which we take to be slips since the paper says otherwise: every beta takes
    effect (there the second normalisation cancels it), every batch starts from fresh noise with a fresh optimiser
    (there from the previous batch's images), and `bound: rescale` brings pixels into range per image (there per batch).

    Additions, each off when its parameter says so: a random augmentation at every step (`augment: null`), a coarse
    start (`init.resolution` of the image's size) and a `total_variation` prior (0). The paper has none of them; it
    starts from U[0, 1]. They turn high-frequency patterns into shapes, which helps students far more than more steps
    do.
    """

    needs: ClassVar[Needs] = Needs(head=True)
    soft_targets: ClassVar[bool] = True

    beta: tuple[PositiveFloat, ...] = Field(min_length=1)  # scales of the Dirichlet parameters; equal shares of images
    floor: PositiveFloat  # added to each Dirichlet parameter, which must be positive
    temperature: PositiveFloat  # tau
    augment: Augment | None  # a new random augmentation of each image at each step
    init: Init
    total_variation: NonNegativeFloat  # weight of the l1 total variation beside the cross-entropy
    steps: PositiveInt  # Adam steps per image
    learning_rate: PositiveFloat  # in [0, 1] pixel units
    bound: Bound
    batch: PositiveInt  # images optimised together; changes speed and memory, not the method

    def fit(self, run: Run) -> Source:
        """Compute the class-similarity matrix; nothing is trained.

        Raises:
            TeacherError: the teacher does not end in a linear layer.
        """
        similarity = class_similarity(run.teacher.head.weight)
        alphas = torch.stack([dirichlet_alphas(similarity, beta, self.floor) for beta in self.beta])
        return _Impressions(self, run.teacher, alphas, run.compute)


def dirichlet_alphas(similarity: Tensor, beta: float, floor: float) -> Tensor:
    """Dirichlet parameters, [K, K] float64: row k for images of class k.

    alpha_k = beta * minmax(C_k), section 3.2.2: each row of the similarity matrix is mapped to [0, 1] on its own, then
    multiplied. The released code maps the row once more after the multiplication, which cancels beta.

    Args:
        similarity: [K, K] from `class_similarity`.
        beta: smaller is peakier.
        floor: added to every entry, because a Dirichlet needs positive parameters and each row has one exact zero.
    """
    low = similarity.amin(dim=1, keepdim=True)
    high = similarity.amax(dim=1, keepdim=True)
    return beta * (similarity - low) / (high - low).clamp_min(torch.finfo(torch.float64).tiny) + floor


def dirichlet_targets(alphas: Tensor, rng: torch.Generator) -> Tensor:
    """One draw per row: [N, K] Dirichlet parameters to [N, K] float32 distributions.

    Drawn by numpy in float64, which stays exact where parameters are so small that a float32 gamma underflows.
    """
    draws = numpy_stream(rng)
    rows = np.stack([draws.dirichlet(row) for row in alphas.double().numpy()])
    return torch.from_numpy(rows).float()


class _Impressions:
    def __init__(self, method: Method, teacher: Teacher, alphas: Tensor, compute: Compute) -> None:
        self.method, self.teacher, self.compute = method, teacher, compute
        self.alphas = alphas  # [betas, K, K]
        shape = (method.batch, teacher.card.channels, teacher.card.size, teacher.card.size)
        self._losses = quick(self._loss, teacher, shape, method.steps, compute)

    def draw(self, count: int, rng: torch.Generator) -> Batch:
        method, card = self.method, self.teacher.card
        betas, classes = self.alphas.shape[:2]
        groups = balanced(count, betas * classes, rng)
        targets = dirichlet_targets(self.alphas[groups // classes, groups % classes], rng)
        start = method.init.draw((count, card.channels, card.size, card.size), rng)
        chunks = zip(start.split(method.batch), targets.split(method.batch), strict=True)
        return Batch(torch.cat([self._optimise(images, wanted, rng) for images, wanted in chunks]), targets)

    def _optimise(self, images: Tensor, targets: Tensor, rng: torch.Generator) -> Tensor:
        method, device = self.method, self.compute.torch_device()
        targets = targets.to(device)

        return descend(
            images.to(device),
            lambda pixels: self._losses(augment(pixels, method.augment, rng), pixels, targets),
            steps=method.steps,
            adam=Adam(method.learning_rate),
            bound=method.bound,
            compute=self.compute,
        )

    def _loss(self, seen: Tensor, pixels: Tensor, targets: Tensor) -> Tensor:
        losses = softened_cross_entropy(self.teacher(seen), targets, self.method.temperature)
        if self.method.total_variation == 0:
            return losses
        return losses + self.method.total_variation * total_variation(pixels)
