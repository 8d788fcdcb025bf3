"""One training loop for teachers and students: recipe, views, sets in memory, `fit`."""

from pipeline.training.loop import Objective, Row, View, fit
from pipeline.training.optimiser import Optimiser
from pipeline.training.pool import Feed, Pool, Rows, order, pick, to_unit
from pipeline.training.recipe import Recipe, Updates, learning_rate, rate
from pipeline.training.state import frozen, mode, seeded

__all__ = [
    "Feed",
    "Objective",
    "Optimiser",
    "Pool",
    "Recipe",
    "Row",
    "Rows",
    "Updates",
    "View",
    "fit",
    "frozen",
    "learning_rate",
    "mode",
    "order",
    "pick",
    "rate",
    "seeded",
    "to_unit",
]
