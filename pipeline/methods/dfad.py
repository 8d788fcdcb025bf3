"""DFAD, Fang et al. (2019), with activation regularisation and virtual interpolation, Qu, Wang and Xiao (2021)."""

from contextlib import AbstractContextManager

import torch
from pydantic import PositiveInt
from torch import Tensor

from pipeline import transfer
from pipeline.core.device import Compute
from pipeline.core.params import Block
from pipeline.core.rng import generator
from pipeline.synthesis.duel import Duel, Opponent
from pipeline.synthesis.generating import Game, GenerationParams, Play, latents_of
from pipeline.teacher.model import Teacher
from pipeline.transfer import Attention, Boundary, Interpolation

__all__ = ["Method", "Regularisation"]


class Regularisation(Block):
    """Activation regularisation, reconstructed: what proxy and teacher should share inside."""

    boundary: Boundary | None  # the activation boundaries of Heo et al. (2019)
    attention: Attention | None  # attention maps, Zagoruyko & Komodakis (2017): the cheaper reading
    # Whether the generator seeks images where these differ, too. The teacher enters the boundary term by sign alone,
    # so there the way to the generator leads through the proxy's responses.
    generator: bool


class Method(GenerationParams):
    """A generator that seeks images on which teacher and proxy differ in their logits, and a proxy that learns them.

    "Data-Free Adversarial Distillation" (arXiv 1912.11006): an iteration is `student_steps` proxy steps down
    mean |S - T|, each on a fresh batch, then one generator step up the same distance on another (algorithm 1;
    equation 4 without the log(1 + .) of equation 6, as released).

    `regularisation` and `interpolation` are those of "Enhancing Data-Free Adversarial Distillation with Activation
    Regularization and Virtual Interpolation" (ICASSP 2021) as far as its abstract tells: **a reconstruction**. Neither
    code nor the method's text is public. From the abstract come the aims (match the teacher near activation and
    decision boundaries; virtual samples and labels between decision boundaries); the choice of activation-boundary
    matching and mixup for them follows the works it cites; every weight is this project's. Both act on the proxy's
    steps; null switches either off, which leaves DFAD.
    """

    proxy: Opponent
    student_steps: PositiveInt
    regularisation: Regularisation | None
    interpolation: Interpolation | None

    def game(self, teacher: Teacher, seed: int, compute: Compute) -> Game:
        """Generator and proxy, and the rules above."""
        terms = self.regularisation
        attention, boundary = (None, None) if terms is None else (terms.attention, terms.boundary)
        proxy_steps = self.steps * self.student_steps
        return _Game(self, Duel(self, self.proxy, proxy_steps, teacher, seed, compute, attention, boundary), seed)


class _Game(Game):
    def __init__(self, method: Method, duel: Duel, seed: int) -> None:
        super().__init__(duel.sides, duel.proxy)
        self.method, self.duel, self.seed = method, duel, seed
        self._reaching = method.regularisation is not None and method.regularisation.generator

    def play(self, step: int) -> Play:
        method, duel = self.method, self.duel
        latents = latents_of(method, self.seed, step, method.student_steps + 1, duel.compute.torch_device())
        losses: list[Tensor] = []
        for turn in range(method.student_steps):
            index = step * method.student_steps + turn
            with duel.compute.autocast():
                loss = self._proxy_loss(duel.fresh(latents[turn]), index)
            self.sides["proxy"].learn(loss, index)
            losses.append(loss.detach())
        with duel.compute.autocast():
            images = duel.images(latents[-1])
            teacher, proxy = duel.teacher(images), duel.student(images)
            distance = transfer.l1(proxy, teacher)
            loss = -distance - duel.terms(reach_teacher=True) if self._reaching else -distance
        self.sides["generator"].learn(loss, step)
        return Play({"generator_loss": loss, "proxy_loss": torch.stack(losses).mean()}, images, teacher, proxy)

    def _proxy_loss(self, images: Tensor, index: int) -> Tensor:
        duel, interpolation = self.duel, self.method.interpolation
        label = duel.labels(images)
        loss = transfer.l1(duel.student(images), label)
        if duel.has_terms:
            loss = loss + duel.terms()
        if interpolation is None:
            return loss
        rng = generator(self.seed, "proxy/interpolation", index)
        share = transfer.virtual_shares(interpolation.alpha, len(images), rng).to(images.device)
        asked = duel.teacher if interpolation.labels == "teacher" else None
        mixed, virtual = transfer.virtual(images, label, share, asked)
        return loss + interpolation.weight * transfer.l1(duel.student(mixed), virtual)

    def watching(self) -> AbstractContextManager[None]:
        return self.duel.terms.watching()
