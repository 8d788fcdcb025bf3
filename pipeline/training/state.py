"""What is changed beside weights, put back as it was found: module modes, gradients, torch's global generators."""

from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import nn

from pipeline.core.rng import generator

__all__ = ["frozen", "mode", "seeded"]


@contextmanager
def mode(net: nn.Module, *, training: bool) -> Generator[None]:
    """Put every module into training or evaluation mode; each finds its own former mode afterwards."""
    before = [(module, module.training) for module in net.modules()]
    net.train(training)
    try:
        yield
    finally:
        for module, was in before:
            module.training = was


@contextmanager
def frozen(net: nn.Module) -> Generator[None]:
    """Evaluation mode, and no parameter requires a gradient; each is put back as it was afterwards."""
    before = [(parameter, parameter.requires_grad) for parameter in net.parameters()]
    with mode(net, training=False):
        net.requires_grad_(requires_grad=False)
        try:
            yield
        finally:
            for parameter, was in before:
                parameter.requires_grad_(was)


@contextmanager
def seeded(seed: int, purpose: str, index: int = 0) -> Generator[None]:
    """Seed torch's global generators for layers that draw from them (dropout), and restore their states at the end."""
    devices = list(range(torch.cuda.device_count()))
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(generator(seed, purpose, index).initial_seed())
        yield
