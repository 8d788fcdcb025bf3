"""Workshops that go wrong at their first shard, importable by worker processes."""

import os

import torch
from producing import CHANNELS, CLASSES, SIZE, teacher

from pipeline.methods import Batch
from pipeline.shards.produce import Workshop


class Dying:
    def draw(self, count: int, rng: torch.Generator, index: int) -> Batch:
        os.kill(os.getpid(), 9)
        raise AssertionError


class Failing:
    def draw(self, count: int, rng: torch.Generator, index: int) -> Batch:
        return Batch(torch.full((count, CHANNELS, SIZE, SIZE), torch.nan), torch.full((count, CLASSES), 1 / CLASSES))


def dying() -> Workshop:
    return Workshop(Dying(), teacher())


def failing() -> Workshop:
    return Workshop(Failing(), teacher())
