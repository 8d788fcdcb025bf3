# pyright: reportPrivateUsage=false, reportPrivateImportUsage=false
# torch documents its foreach operations under these names.
"""SGD, Adam and AdamW over all parameters of a network at once.

Not torch.optim: constructing any optimiser of it imports the whole compiler, 3.5 seconds of a core in every process,
more than a small student's epoch. And state that is copied into place keeps the strides of its parameters.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.training.recipe import Updates

__all__ = ["Optimiser"]

_BETA2, _EPSILON = 0.999, 1e-8  # Kingma & Ba (2015), algorithm 1

Tensors = list[Tensor]


class Optimiser:
    """The optimiser of a recipe, with its state."""

    def __init__(self, updates: Updates, parameters: Iterable[nn.Parameter]) -> None:
        """Take hold of the parameters that want a gradient; they must be on their device and in their layout."""
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self._steps = 0
        self._updates = updates
        self._rule: Callable[..., None] = {"sgd": _sgd, "adam": _adam, "adamw": _adamw}[updates.optimiser]
        moments = 1 if updates.optimiser == "sgd" else 2
        self._moments = [[torch.zeros_like(weight) for weight in self.parameters] for _ in range(moments)]

    def clip(self, norm: float | None) -> None:
        """Scale the gradients down to this L2 norm of all of them together; None: leave them."""
        if norm is not None:
            nn.utils.clip_grad_norm_(self.parameters, norm)

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Update the parameters with this learning rate, and drop their gradients.

        A parameter without a gradient stays as it is.
        """
        self._steps += 1
        used = [index for index, weight in enumerate(self.parameters) if weight.grad is not None]
        weights: Tensors = [self.parameters[index] for index in used]
        gradients = [weight.grad for weight in weights]
        moments = [[moment[index] for index in used] for moment in self._moments]
        self._rule(weights, gradients, moments, rate, self._updates, self._steps)
        for weight in weights:
            weight.grad = None

    def state(self) -> dict[str, Any]:
        """What `load` needs, for a checkpoint."""
        return {"steps": self._steps, "moments": self._moments}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        self._steps = state["steps"]
        for ours, theirs in zip(self._moments, state["moments"], strict=True):
            for mine, value in zip(ours, theirs, strict=True):
                mine.copy_(value)


def _sgd(weights: Tensors, gradients: Tensors, moments: list[Tensors], rate: float, updates: Updates, _: int) -> None:
    """Momentum with L2 regularisation: m <- momentum m + g + weight_decay w; w <- w - rate m."""
    (momentum,) = moments
    torch._foreach_mul_(momentum, updates.momentum)
    torch._foreach_add_(momentum, _decayed(weights, gradients, updates))
    torch._foreach_add_(weights, momentum, alpha=-rate)


def _adam(
    weights: Tensors, gradients: Tensors, moments: list[Tensors], rate: float, updates: Updates, step: int
) -> None:
    """Kingma & Ba (2015), algorithm 1, with L2 regularisation."""
    _adam_step(weights, _decayed(weights, gradients, updates), moments, rate, updates.momentum, step)


def _adamw(
    weights: Tensors, gradients: Tensors, moments: list[Tensors], rate: float, updates: Updates, step: int
) -> None:
    """Loshchilov & Hutter (2019), algorithm 2: weights decay by rate weight_decay, apart from the gradient."""
    torch._foreach_mul_(weights, 1 - rate * updates.weight_decay)
    _adam_step(weights, gradients, moments, rate, updates.momentum, step)


def _adam_step(
    weights: Tensors, gradients: Tensors, moments: list[Tensors], rate: float, beta1: float, step: int
) -> None:
    first, second = moments
    torch._foreach_lerp_(first, gradients, 1 - beta1)
    torch._foreach_mul_(second, _BETA2)
    torch._foreach_addcmul_(second, gradients, gradients, 1 - _BETA2)
    scale = torch._foreach_sqrt(second)
    torch._foreach_div_(scale, (1 - _BETA2**step) ** 0.5)
    torch._foreach_add_(scale, _EPSILON)
    torch._foreach_addcdiv_(weights, first, scale, -rate / (1 - beta1**step))


def _decayed(weights: Tensors, gradients: Tensors, updates: Updates) -> Tensors:
    return (
        list(torch._foreach_add(gradients, weights, alpha=updates.weight_decay)) if updates.weight_decay else gradients
    )
