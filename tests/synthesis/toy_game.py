"""A generator method in few lines, for tests of what all of them share."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pipeline.augment import Augment
from pipeline.core.checkpoint import Checkpoint
from pipeline.core.rng import generator
from pipeline.nets.generators import GeneratorParams
from pipeline.synthesis.generating import (
    Game,
    GenerationParams,
    Play,
    Side,
    SnapshotParams,
    latents_of,
    new_generator,
    paint,
)
from pipeline.training import Updates

OFF = Augment(crop=0, flip=False, rotate=0, translate=0, scale=(1, 1), shear=0, cutout=0, fill="zeros")
SHAPE = GeneratorParams(latent_dim=5, widths=(4, 3), epsilon=1e-5, tanh=True, affine=True)


def updates(**changes: Any) -> Updates:
    block: dict[str, Any] = {
        "optimiser": "adam", "learning_rate": 0.01, "momentum": 0.9, "weight_decay": 0.0, "schedule": "constant",
        "milestones": (), "decay": 0.1, "clip_norm": None,
    }  # fmt: skip
    return Updates(**{**block, **changes})


class Toy(GenerationParams):
    """A generator that learns to paint grey."""

    def game(self, teacher: Any, seed: int, compute: Any) -> "ToyGame":
        net = new_generator(self, teacher, generator(seed, "weights"), compute)
        return ToyGame(self, teacher, Side(net, self.updates, self.steps), seed)


class ToyGame(Game):
    # Tests change what is seen in an iteration, or pull the plug in the middle of one.
    seen: Callable[[int, Play], Play] = staticmethod(lambda step, play: play)

    def __init__(self, params: Toy, teacher: Any, side: Side, seed: int) -> None:
        super().__init__({"generator": side}, None)
        self.params, self.teacher, self.seed = params, teacher, seed

    def play(self, step: int) -> Play:
        side = self.sides["generator"]
        (latents,) = latents_of(self.params, self.seed, step, 1, torch.device("cpu"))
        images = paint(self.params, side.net, latents)
        loss = (images - 0.5).square().mean()
        luck: Tensor = torch.rand(())  # as a layer with dropout would draw it
        side.learn(loss * (1 + luck), step)
        return self.seen(step, Play({"loss": loss, "luck": luck}, images, self.teacher(images), None))


def toy(states: int = 1, since: float = 0.0, **changes: Any) -> Toy:
    fields: dict[str, Any] = {
        "generator": SHAPE, "views": OFF, "clamp": False, "updates": updates(), "batch": 6, "epochs": 4,
        "iterations": 3, "snapshots": SnapshotParams(states=states, since=since), "statistics": "eval",
    }  # fmt: skip
    return Toy(**{**fields, **changes})


def fit(method: Toy, teacher: Any, checkpoint: Checkpoint, compute: Any, seed: int = 0) -> Any:
    return method.fit(teacher, generator(seed, "fit"), checkpoint, compute)
