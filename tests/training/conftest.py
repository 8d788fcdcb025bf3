"""Small recipes and small networks."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from pipeline.core.device import Compute
from pipeline.core.params import build
from pipeline.training import Recipe

OFF = {"crop": 0, "flip": False, "rotate": 0.0, "translate": 0.0, "scale": [1.0, 1.0], "shear": 0.0, "cutout": 0}


@pytest.fixture
def recipe() -> Callable[..., Recipe]:
    """A short recipe with what is asked for."""

    def make(**changes: Any) -> Recipe:
        block = {
            "batch": 8,
            "epochs": 3,
            "steps_per_epoch": 5,
            "optimiser": "sgd",
            "learning_rate": 0.1,
            "momentum": 0.9,
            "weight_decay": 0.001,
            "schedule": "cosine",
            "milestones": [0.5],
            "decay": 0.1,
            "warmup_epochs": 0.0,
            "clip_norm": None,
            "mixup": 0.0,
            **changes,
        }
        return build(Recipe, {**block, "augment": {**OFF, "fill": "zeros", **block.get("augment", {})}}, "recipe")

    return make


@pytest.fixture
def cpu() -> Compute:
    return Compute(device="cpu", precision="float32", channels_last=True, compile="never")


@pytest.fixture
def small_net() -> Callable[[], nn.Module]:
    """The same small convolutional network at each call: BatchNorm and dropout are in it."""

    def make() -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(5)
            return nn.Sequential(
                nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3, stride=2),
                nn.Flatten(), nn.Dropout(0.25), nn.Linear(54, 3),
            )  # fmt: skip

    return make
