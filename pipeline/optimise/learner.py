"""A network that learns: its optimiser, the schedule of its learning rate, clipping, and state to resume from."""

import math
from typing import Annotated, Any, Literal, cast

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import Tensor, nn
from torch.optim.adam import adam
from torch.optim.sgd import sgd

from ..core.params import Block

__all__ = ["Learner", "Milestones", "Optimizer", "cosine", "rate", "warming"]

_BETA2, _EPSILON = 0.999, 1e-8  # Kingma & Ba (2015), algorithm 1


class Milestones(Block):
    """A learning rate that falls in steps."""

    milestones: Annotated[tuple[Annotated[float, Field(gt=0, lt=1)], ...], Field(min_length=1)]  # fractions of the run
    decay: Annotated[float, Field(gt=0, le=1)]  # factor at each milestone


class Optimizer(Block):
    """How gradients become steps. What is absent is off."""

    name: Literal["sgd", "adam", "adamw"]
    learning_rate: PositiveFloat  # the highest of the schedule
    momentum: Annotated[float, Field(ge=0, lt=1)]  # of sgd; beta1 of adam and adamw
    weight_decay: NonNegativeFloat = 0.0  # L2 regularisation; of adamw: decoupled
    schedule: Literal["cosine", "constant"] | Milestones
    clip_norm: PositiveFloat | None = None  # largest L2 norm of the whole gradient


def warming(step: int, warmup: float) -> float | None:
    """(step + 1) / warmup while a linear warm-up over so many steps lasts, then None."""
    return (step + 1) / warmup if step + 1 < warmup else None


def cosine(step: int, steps: int, warmup: float = 0) -> float:
    """(1 + cos(pi t)) / 2, t the fraction of the steps after the warm-up that is done; from 1 to 0.

    Loshchilov & Hutter (2017), equation 5, one cycle.
    """
    done = max(0.0, step - warmup) / max(1.0, steps - warmup)
    return (1 + math.cos(math.pi * done)) / 2


def rate(params: Optimizer, step: int, steps: int, warmup: float = 0) -> float:
    """The learning rate of step 0, 1, ..., `steps` - 1.

    Warm-up over w steps: learning_rate (step + 1) / w. Then learning_rate times `cosine`; or decay^m where m milestones
    are passed, counted over the whole run; or 1.
    """
    rising = warming(step, warmup)
    if rising is not None:
        return params.learning_rate * rising
    match params.schedule:
        case "cosine":
            return params.learning_rate * cosine(step, steps, warmup)
        case "constant":
            return params.learning_rate
        case Milestones(milestones=milestones, decay=decay):
            return params.learning_rate * decay ** sum(step >= milestone * steps for milestone in milestones)


class Learner:
    """A network with what it needs to learn."""

    def __init__(self, net: nn.Module, params: Optimizer, steps: int, warmup: float = 0) -> None:
        """Take hold of the parameters that want a gradient.

        Args:
            net: on its device and in its memory layout.
            params: of the optimiser.
            steps: of the whole training, for the schedule.
            warmup: steps of a linear warm-up.
        """
        self.net, self.params = net, params
        self.parameters = [parameter for parameter in net.parameters() if parameter.requires_grad]
        self._steps, self._warmup = steps, warmup
        # torch's own arithmetic as functions: constructing an optimiser of torch.optim imports the compiler, seconds
        # of a core in every process; and state that is copied into place keeps the strides of its parameters.
        moments = 1 if params.name == "sgd" else 2
        self._moments = [[torch.zeros_like(weight) for weight in self.parameters] for _ in range(moments)]
        self._counts = [torch.zeros((), device=weight.device) for weight in self.parameters]

    def step(self, loss: Tensor, number: int) -> None:
        """One step down a scalar loss: step `number`, from 0, of the schedule.

        Gradients reach this network's parameters and no other's; a parameter without one stays as it is.
        """
        found = torch.autograd.grad(loss, self.parameters, allow_unused=True)
        gradients = cast(tuple[Tensor | None, ...], found)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = None if gradient is None else _laid_out(gradient, parameter)
        if self.params.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.params.clip_norm)
        with torch.no_grad():
            self._update(self.rate(number))

    def rate(self, number: int) -> float:
        """The learning rate of a step."""
        return rate(self.params, number, self._steps, self._warmup)

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"net": self.net.state_dict(), "moments": self._moments, "counts": self._counts}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.net.load_state_dict(state["net"])
        for ours, theirs in zip((*self._moments, self._counts), (*state["moments"], state["counts"]), strict=True):
            for mine, value in zip(ours, theirs, strict=True):
                mine.copy_(value)

    def _update(self, learning_rate: float) -> None:
        used = [index for index, weight in enumerate(self.parameters) if weight.grad is not None]
        weights: list[Tensor] = [self.parameters[index] for index in used]
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        moments = [[moment[index] for index in used] for moment in self._moments]
        counts = [self._counts[index] for index in used]
        params, decay = self.params, self.params.weight_decay
        if params.name == "sgd":
            sgd(
                weights, gradients, list(moments[0]), fused=True, weight_decay=decay, momentum=params.momentum,
                lr=learning_rate, dampening=0.0, nesterov=False, maximize=False,
            )  # fmt: skip
        else:
            adam(
                weights, gradients, moments[0], moments[-1], [], counts,
                fused=True, amsgrad=False,
                beta1=params.momentum, beta2=_BETA2, lr=learning_rate, weight_decay=decay, eps=_EPSILON, maximize=False,
                decoupled_weight_decay=params.name == "adamw",
            )  # fmt: skip
        for weight in weights:
            weight.grad = None


def _laid_out(gradient: Tensor, parameter: Tensor) -> Tensor:
    """The gradient in the parameter's order of memory: fused kernels walk through both without a look at strides."""
    return gradient if gradient.stride() == parameter.stride() else torch.empty_like(parameter).copy_(gradient)
