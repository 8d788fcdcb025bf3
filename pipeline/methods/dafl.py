"""DAFL: Chen et al., "Data-Free Learning of Student Networks" (ICCV 2019)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor, nn

from ..classifier import Teacher
from ..core.errors import TeacherError
from ..losses.dafl import activation, information_entropy, one_hot_loss
from ..optimise.adversarial import GeneratorMethod, Outputs, Step
from ..optimise.source import Run

__all__ = ["Method"]


class Method(GeneratorMethod):
    """A generator whose images the teacher is sure about, which excite its features, and which cover the classes.

    Loss of a batch: one_hot * CE(T, argmax T) + activation * (-mean |f|) + entropy * sum_k p_k log10 p_k, with f the
    input of one of the teacher's layers and p the mean belief (equations 2 to 5). Published weights (one_hot,
    activation, entropy) of the released code: MNIST 1, 0.1, 5; CIFAR-10 0.05, 0.01, 5; CIFAR-100 0.5, 0.1, 20, all with
    log10. Batches are large, 512 and 1,024: with 64 the published figures are out of reach.

    The released code takes for f the input of the last layer of its ResNets (`features: head`), but of LeNet-5 the 120
    numbers that its first linear layer after the convolutions is given: `features: hidden2` for `lenet5` here.

    The paper trains the student at the same time, on images that it detaches from the generator: the generator never
    sees a student. Here it is trained alone, with the same result for the generator at a fraction of the cost, and the
    students learn from what its states along the training put out (`snapshots`).
    """

    one_hot: NonNegativeFloat
    activation: NonNegativeFloat
    entropy: NonNegativeFloat
    features: Annotated[str, Field(min_length=1)]  # whose input f is: head, the last linear layer, or a dotted name

    def start(self, run: Run, seed: int) -> Step:
        """A generator alone.

        Raises:
            TeacherError: the teacher has no such layer, or for `features: head` does not end in a linear one.
        """
        return _Step(self, run, seed)


class _Step(Step):
    def __init__(self, method: Method, run: Run, seed: int) -> None:
        super().__init__(method, run, seed)
        self.method, self._layer = method, _layer(run.teacher, method.features, method.key)
        self._features = torch.empty(0)

    def __call__(self, number: int) -> Outputs:
        method = self.method
        (latents,) = self.latents(number, 1)
        with self.compute.autocast():
            raw, images = self.images(latents)
            logits = self.teacher(images)
        if not self._features.numel():
            raise TeacherError(f"{method.key}.features: {method.features!r}: is given no tensor; name another layer")
        one_hot, excited, spread = one_hot_loss(logits), activation(self._features), information_entropy(logits)
        loss = torch.stack([method.one_hot * one_hot, method.activation * excited, method.entropy * spread]).sum()
        self.generator.step(loss, number)
        scores = {"loss": loss, "one_hot_loss": one_hot, "activation_loss": excited, "entropy_loss": spread}
        return Outputs(scores, raw, logits, None)

    @contextmanager
    def hooks(self) -> Iterator[None]:
        """Keep what the layer is given, while the block lasts."""

        def keep(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
            if inputs and isinstance(inputs[0], Tensor):
                self._features = inputs[0]

        hook = self._layer.register_forward_pre_hook(keep)
        try:
            yield
        finally:
            hook.remove()
            self._features = torch.empty(0)


def _layer(teacher: Teacher, name: str, key: str) -> nn.Module:
    if name == "head":
        return teacher.head
    try:
        return teacher.net.get_submodule(name)
    except AttributeError as error:
        there = ", ".join(child for child, _ in teacher.net.named_children())
        raise TeacherError(
            f"{key}.features: {name!r}: {teacher.card.arch} has no such layer; at its top level it has {there}"
        ) from error
