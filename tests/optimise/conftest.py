"""Small recipes."""

from collections.abc import Callable
from typing import Any

import pytest

from pipeline.core.device import Compute
from pipeline.core.params import build
from pipeline.optimise.learner import Optimizer
from pipeline.optimise.network import Recipe


@pytest.fixture
def recipe() -> Callable[..., Recipe]:
    """A short recipe with what is asked for."""

    def make(**changes: Any) -> Recipe:
        block: dict[str, Any] = {"batch": 8, "epochs": 3, "steps_per_epoch": 5}
        optimizer: dict[str, Any] = {
            "name": "sgd", "learning_rate": 0.1, "momentum": 0.9, "weight_decay": 0.001, "schedule": "cosine",
        }  # fmt: skip
        for key, value in changes.items():
            (optimizer if key in Optimizer.model_fields else block)[key] = value
        if "augment" in block:
            block["augment"] = {"fill": "zeros", **block["augment"]}
        return build(Recipe, {**block, "optimizer": optimizer}, "recipe")

    return make


@pytest.fixture
def cpu() -> Compute:
    return Compute(device="cpu", precision="float32", channels_last=True, compile="never")
