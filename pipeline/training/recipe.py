"""The recipe of a training, and its learning rate as a pure function of the step."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from pipeline.augment import Augment
from pipeline.core.params import Block
from pipeline.core.schedule import cosine, warming

__all__ = ["Recipe", "Updates", "learning_rate", "rate"]

_Fraction = Annotated[float, Field(gt=0, lt=1)]


class Updates(Block):
    """How an optimiser turns gradients into steps."""

    optimiser: Literal["sgd", "adam", "adamw"]
    learning_rate: PositiveFloat  # the highest of the schedule
    momentum: Annotated[float, Field(ge=0, lt=1)]  # of sgd; beta1 of adam and adamw
    weight_decay: NonNegativeFloat
    schedule: Literal["cosine", "step", "constant"]
    milestones: tuple[_Fraction, ...]  # of schedule step: fractions of the run
    decay: Annotated[float, Field(gt=0, le=1)]  # of schedule step: factor at each milestone
    clip_norm: PositiveFloat | None  # largest L2 norm of the whole gradient; null: no clipping


class Recipe(Updates):
    """How a network is trained. An epoch is `steps_per_epoch` steps, whatever the size of the set."""

    batch: PositiveInt  # images per step
    epochs: PositiveInt
    steps_per_epoch: PositiveInt
    warmup_epochs: NonNegativeFloat  # linear from 0
    augment: Augment
    mixup: NonNegativeFloat  # alpha of Beta(alpha, alpha), Zhang et al. (2018); 0: off

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return self.epochs * self.steps_per_epoch


def learning_rate(recipe: Recipe, step: int) -> float:
    """The learning rate of step 0, 1, ..., `recipe.steps` - 1, after the recipe's warm-up as in `rate`."""
    return rate(recipe, step, recipe.steps, recipe.warmup_epochs * recipe.steps_per_epoch)


def rate(updates: Updates, step: int, steps: int, warmup: float = 0) -> float:
    """The learning rate of step 0, 1, ..., `steps` - 1.

    Warm-up over w steps: learning_rate (step + 1) / w. Then, with t the fraction of the rest that is done:
    cosine: learning_rate (1 + cos(pi t)) / 2 (Loshchilov & Hutter 2017, eq. 5, one cycle, down to 0);
    step: learning_rate decay^m, m milestones passed, counted over the whole run; constant: learning_rate.
    """
    rising = warming(step, warmup)
    if rising is not None:
        return updates.learning_rate * rising
    match updates.schedule:
        case "cosine":
            return updates.learning_rate * cosine(step, steps, warmup)
        case "step":
            passed = sum(step >= milestone * steps for milestone in updates.milestones)
            return updates.learning_rate * updates.decay**passed
        case "constant":
            return updates.learning_rate
