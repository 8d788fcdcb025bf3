"""The data-impression loop as research scripts write it: the yardstick, kept plain on purpose."""

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from pipeline.nets.pooling import MaxPool2x2
from pipeline.nets.stem import StemConv2d

__all__ = ["PlainLoop", "plain_layers"]


def plain_layers(net: nn.Module) -> nn.Module:
    """The same network with torch's own layers in place of ours, in place."""
    for module in net.modules():
        if isinstance(module, StemConv2d):
            module.__class__ = nn.Conv2d
        for name, child in module.named_children():
            if isinstance(child, MaxPool2x2):
                setattr(module, name, nn.MaxPool2d(2))
    return net


class PlainLoop:
    """Default settings throughout: memory layout, Adam, and a teacher whose parameters collect gradients too."""

    def __init__(self, teacher: nn.Module, images: Tensor, targets: Tensor, temperature: float, rate: float) -> None:
        """`teacher` takes [0, 1] images; `images` [N, C, H, W] and `targets` [N, K] as in the method."""
        self.teacher = teacher
        self.images = images.clone().requires_grad_()
        self.targets = targets
        self.temperature = temperature
        self.optimiser = torch.optim.Adam([self.images], lr=rate)

    def step(self) -> None:
        """One Adam step on the batch, then the whole batch back into [0, 1]."""
        self.optimiser.zero_grad()
        loss = -(self.targets * log_softmax(self.teacher(self.images) / self.temperature, dim=1)).sum(1).mean()
        loss.backward()
        self.optimiser.step()
        with torch.no_grad():
            self.images.clamp_(0, 1)
