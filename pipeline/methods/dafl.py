"""DAFL: Chen et al., "Data-Free Learning of Student Networks" (ICCV 2019)."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from pydantic import NonNegativeFloat
from torch import Tensor, nn

from pipeline.core.device import Compute
from pipeline.core.rng import generator
from pipeline.synthesis.generating import (
    Game,
    GenerationParams,
    Play,
    Side,
    latents_of,
    new_generator,
    paint,
)
from pipeline.synthesis.losses import activation, information_entropy, one_hot_loss
from pipeline.teacher.model import Teacher

__all__ = ["Method"]


class Method(GenerationParams):
    """A generator whose images the teacher is sure about, which excite its features, and which cover the classes.

    Loss of a batch: one_hot * CE(T, argmax T) + activation * (-mean |f|) + entropy * sum_k p_k log10 p_k, with f the
    input of the teacher's last layer and p the mean belief (equations 2 to 5). Published weights (one_hot, activation,
    entropy) of the released code: MNIST 1, 0.1, 5; CIFAR-10 0.05, 0.01, 5; CIFAR-100 0.5, 0.1, 20, all with log10.
    Batches are large, 512 and 1,024: with 64 the published figures are out of reach.

    The paper trains the student at the same time, on images that it detaches from the generator: the generator never
    sees a student. Here it is trained alone, with the same result for the generator at a fraction of the cost, and the
    students learn from what its states along the training put out (`snapshots`).
    """

    one_hot: NonNegativeFloat
    activation: NonNegativeFloat
    entropy: NonNegativeFloat

    def game(self, teacher: Teacher, seed: int, compute: Compute) -> Game:
        """A generator alone, and the three losses.

        Raises:
            TeacherError: the teacher does not end in a linear layer, whose input the activation loss looks at.
        """
        net = new_generator(self, teacher, generator(seed, "generator/weights"), compute)
        return _Game(self, teacher, Side(net, self.updates, self.steps), seed, compute)


class _Game(Game):
    def __init__(self, method: Method, teacher: Teacher, side: Side, seed: int, compute: Compute) -> None:
        super().__init__({"generator": side}, None)
        self.method, self.teacher, self.seed, self.compute = method, teacher, seed, compute
        self._head = teacher.head
        self._features = torch.empty(0)

    def play(self, step: int) -> Play:
        method = self.method
        (latents,) = latents_of(method, self.seed, step, 1, self.compute.torch_device())
        side = self.sides["generator"]
        with self.compute.autocast():
            images = paint(method, side.net, latents)
            logits = self.teacher(images)
        scores = {
            "one_hot_loss": one_hot_loss(logits),
            "activation_loss": activation(self._features),
            "entropy_loss": information_entropy(logits),
        }
        weights = (method.one_hot, method.activation, method.entropy)
        loss = torch.stack([weight * score for weight, score in zip(weights, scores.values(), strict=True)]).sum()
        side.learn(loss, step)
        return Play({"loss": loss, **scores}, images, logits, None)

    @contextmanager
    def watching(self) -> Generator[None]:
        """Keep what the teacher's last layer is given, while the block lasts."""

        def keep(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
            features: Tensor = inputs[0]
            self._features = features

        hook = self._head.register_forward_pre_hook(keep)
        try:
            yield
        finally:
            hook.remove()
            self._features = torch.empty(0)
