"""Residual networks for small images (He et al. 2016, arXiv 1512.03385).

`resnet8` ... `resnet110` are the paper's CIFAR networks (section 4.2): depth 6n + 2, three stages of 16, 32 and 64
feature maps, and shortcuts of option A, which subsample and pad with zeros instead of having weights.
`resnet18` and `resnet34` are the paper's ImageNet networks with a 3x3 first convolution and no first pooling.
Parameters are named as in the public CIFAR checkpoints: conv1, bn1, layer1.0.conv1, ..., linear.
"""

import re

from torch import Tensor, nn
from torch.nn import functional

from .layers import he, require, unknown

__all__ = ["NAMES", "BasicBlock", "PadShortcut", "ResNet", "build"]

NAMES = (
    *("resnet8", "resnet14", "resnet20", "resnet32", "resnet44", "resnet56", "resnet110"),
    *("resnet18", "resnet34"),
)

_SMALLEST = 8
_WIDE = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}


class PadShortcut(nn.Module):
    """Option A: every second pixel, and zero feature maps added evenly before and after. No parameters."""

    def __init__(self, inputs: int, outputs: int) -> None:
        """From `inputs` to `outputs` feature maps; the difference is even."""
        super().__init__()
        self.padding = (outputs - inputs) // 2

    def forward(self, maps: Tensor) -> Tensor:
        """[N, inputs, H, W] to [N, outputs, ceil(H / 2), ceil(W / 2)]."""
        return functional.pad(maps[:, :, ::2, ::2], (0, 0, 0, 0, self.padding, self.padding))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int, *, weighted: bool) -> None:
        """A shortcut that changes shape is a 1x1 convolution where `weighted` (option B), else option A."""
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = _projection(inputs, outputs, stride) if weighted else PadShortcut(inputs, outputs)

    def forward(self, maps: Tensor) -> Tensor:
        """[N, inputs, H, W] to [N, outputs, H / stride, W / stride]."""
        out = functional.relu(self.bn1(self.conv1(maps)), inplace=True)
        out = self.bn2(self.conv2(out)) + self.shortcut(maps)
        return functional.relu(out, inplace=True)


class ResNet(nn.Module):
    """Stages `layer1`, `layer2`, ...: each but the first halves the image and doubles the feature maps."""

    head: str = "linear"

    def __init__(self, depths: tuple[int, ...], width: int, classes: int, channels: int, *, weighted: bool) -> None:
        """`depths` are the numbers of blocks per stage, `width` the feature maps of the first stage."""
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        inputs = width
        for stage, depth in enumerate(depths):
            outputs = width * 2**stage
            layers = [BasicBlock(inputs, outputs, 1 if stage == 0 else 2, weighted=weighted)]
            layers += [BasicBlock(outputs, outputs, 1, weighted=weighted) for _ in range(depth - 1)]
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
            inputs = outputs
        self.blocks: tuple[str, ...] = tuple(f"layer{stage + 1}" for stage in range(len(depths)))
        self.linear = nn.Linear(inputs, classes)
        he(self)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised [N, C, H, W] to [N, K] logits."""
        maps = functional.relu(self.bn1(self.conv1(images)), inplace=True)
        for name in self.blocks:
            maps = self.get_submodule(name)(maps)
        return self.linear(maps.mean((2, 3)))


def build(arch: str, classes: int, channels: int, size: int) -> nn.Module:
    """One of `NAMES`, or any other depth 6n + 2.

    Raises:
        ParamsError: another name, or a size under 8.
    """
    depth = re.fullmatch(r"resnet(\d{1,4})", arch)
    if depth is None or (arch not in _WIDE and (int(depth[1]) < 8 or int(depth[1]) % 6 != 2)):
        raise unknown(arch, (*NAMES, "any other depth 6n + 2"))
    require(arch, classes, channels, size, _SMALLEST)
    if arch in _WIDE:
        return ResNet(_WIDE[arch], 64, classes, channels, weighted=True)
    return ResNet(((int(depth[1]) - 2) // 6,) * 3, 16, classes, channels, weighted=False)


def _projection(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs))
