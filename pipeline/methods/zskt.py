"""ZSKT: Micaelli and Storkey, "Zero-shot Knowledge Transfer via Adversarial Belief Matching" (NeurIPS 2019)."""

from contextlib import AbstractContextManager

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from pipeline import transfer
from pipeline.core.device import Compute
from pipeline.synthesis.duel import Duel, Opponent
from pipeline.synthesis.generating import Game, GenerationParams, Play, latents_of
from pipeline.teacher.model import Teacher
from pipeline.transfer import Attention

__all__ = ["Method"]


class Method(GenerationParams):
    """A generator that seeks images on which teacher and proxy student disagree, and a proxy that learns them.

    An iteration is one generator step up KL(T || S), then `student_steps` proxy steps down KL(T || S) + beta * the sum
    of attention distances (algorithm 1, equations 1 and 2), at temperature 1. The proxy is in training mode throughout,
    as published. Both optimisers follow a cosine to zero and clip their gradients at norm 5 (released code, not paper).

    KL is the mean over the batch, in nats. The released code averages it over the K classes too, and its beta of 250
    and its norm of 5 belong to that: the same balance here takes 250 K and 5 K, 2,500 and 50 for ten classes.

    With `fresh` each proxy step has images of its own, as in the modified ZSKT of Ferles et al. (2020), which gained
    1 to 3 points; else all steps of an iteration repeat the generator's batch, as published.
    """

    proxy: Opponent
    temperature: PositiveFloat  # tau in tau^2 KL; 1 published
    student_steps: PositiveInt
    fresh: bool
    attention: Attention | None

    def game(self, teacher: Teacher, seed: int, compute: Compute) -> Game:
        """Generator and proxy, and the rules above."""
        proxy_steps = self.steps * self.student_steps
        return _Game(self, Duel(self, self.proxy, proxy_steps, teacher, seed, compute, attention=self.attention), seed)


class _Game(Game):
    def __init__(self, method: Method, duel: Duel, seed: int) -> None:
        super().__init__(duel.sides, duel.proxy)
        self.method, self.duel, self.seed = method, duel, seed

    def play(self, step: int) -> Play:
        method, duel = self.method, self.duel
        batches = 1 + (method.student_steps if method.fresh else 0)
        latents = latents_of(method, self.seed, step, batches, duel.compute.torch_device())
        with duel.compute.autocast():
            images = duel.images(latents[0])
            teacher, proxy = duel.teacher(images), duel.student(images)
            generator_loss = -transfer.kl(proxy, teacher, method.temperature)
        self.sides["generator"].learn(generator_loss, step)
        seen, label = images.detach(), teacher.detach()
        losses: list[Tensor] = []
        for turn in range(method.student_steps):
            with duel.compute.autocast():
                if method.fresh:
                    seen = duel.fresh(latents[1 + turn])
                    label = duel.labels(seen)
                loss = transfer.kl(duel.student(seen), label, method.temperature)
                if duel.has_terms:
                    loss = loss + duel.terms()
            self.sides["proxy"].learn(loss, step * method.student_steps + turn)
            losses.append(loss.detach())
        scores = {"generator_loss": generator_loss, "proxy_loss": torch.stack(losses).mean()}
        return Play(scores, images, teacher, proxy)

    def watching(self) -> AbstractContextManager[None]:
        return self.duel.terms.watching()
