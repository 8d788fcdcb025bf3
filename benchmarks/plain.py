"""Pixel loops as research scripts write them: the yardstick, kept plain on purpose."""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, log_softmax

from pipeline import nets
from pipeline.nets.pooling import MaxPool2x2
from pipeline.nets.stem import StemConv2d
from pipeline.teacher.model import Teacher, TeacherInfo

__all__ = ["PlainInversion", "PlainLoop", "plain_layers", "stand_in"]


def plain_layers(net: nn.Module) -> nn.Module:
    """The same network with torch's own layers in place of ours, in place."""
    for module in net.modules():
        if isinstance(module, StemConv2d):
            module.__class__ = nn.Conv2d
        for name, child in module.named_children():
            if isinstance(child, MaxPool2x2):
                setattr(module, name, nn.MaxPool2d(2))
    return net


def stand_in(net: nn.Module, arch: str, channels: int, size: int) -> Teacher:
    """A ten-class teacher of random weights, for its speed alone."""
    info = TeacherInfo(
        arch=arch, classes=tuple("0123456789"), channels=channels, size=size, mean=(0.5,) * channels,
        std=(0.25,) * channels, batch_norm=nets.has_batch_norm(net), sha256="", accuracy=None, source="random weights",
    )  # fmt: skip
    return Teacher(net, info)


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


class PlainInversion:
    """DeepInversion's step with the habits of research code.

    A forward hook on every BatchNorm layer takes the mean and, from a rearranged copy, the variance; parameters collect
    gradients too; default layout, precision and optimiser.
    """

    def __init__(self, net: nn.Module, images: Tensor, labels: Tensor, rate: float) -> None:
        """`net` takes normalised images, `images` [N, C, H, W] are such; `labels` [N]."""
        self.net = net.eval()
        self.images = images.clone().requires_grad_()
        self.labels = labels
        self.optimiser = torch.optim.Adam([self.images], lr=rate)
        self.terms: list[Tensor] = []
        for layer in net.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.register_forward_hook(self._look)

    def step(self) -> None:
        """One Adam step on the batch."""
        self.optimiser.zero_grad()
        self.terms.clear()
        down, right = (int(offset) for offset in torch.randint(-2, 3, (2,)))
        view = torch.roll(self.images, (down, right), (2, 3))
        loss = cross_entropy(self.net(view), self.labels) + 2.5e-5 * _variation(view) + 10 * sum(self.terms)
        (loss + 1e-6 * view.norm()).backward()
        self.optimiser.step()

    def _look(self, layer: nn.BatchNorm2d, inputs: tuple[Tensor, ...], _output: Tensor) -> None:
        maps = inputs[0]
        mean = maps.mean([0, 2, 3])
        variance = maps.permute(1, 0, 2, 3).contiguous().view(maps.shape[1], -1).var(1, unbiased=False)
        assert layer.running_mean is not None
        assert layer.running_var is not None
        self.terms.append((layer.running_mean - mean).norm() + (layer.running_var - variance).norm())


def _variation(images: Tensor) -> Tensor:
    down, right = images[:, :, :-1] - images[:, :, 1:], images[..., :-1] - images[..., 1:]
    one, other = images[:, :, :-1, :-1] - images[:, :, 1:, 1:], images[:, :, 1:, :-1] - images[:, :, :-1, 1:]
    return down.norm() + right.norm() + one.norm() + other.norm()
