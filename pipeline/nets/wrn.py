"""Wide residual networks, WRN-d-k (Zagoruyko and Komodakis 2016, arXiv 1605.07146).

Pre-activation blocks (He et al. 2016, arXiv 1603.05027) in three groups of 16k, 32k and 64k feature maps;
depth d = 6n + 4. Where a block changes shape, its 1x1 shortcut takes the activated input.
Parameters are named as in the widespread PyTorch ports: conv1, block1.layer.0.bn1, ..., convShortcut, bn1, fc.
"""

import re

from torch import Tensor, nn
from torch.nn import functional

from .layers import he, require, unknown

__all__ = ["NAMES", "Group", "PreActivationBlock", "WideResNet", "build"]

NAMES = ("wrn_16_1", "wrn_16_2", "wrn_40_1", "wrn_40_2", "wrn_28_10")

_SMALLEST = 8


class PreActivationBlock(nn.Module):
    """BatchNorm, ReLU, 3x3 convolution, twice, beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        """From `inputs` to `outputs` feature maps."""
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.convShortcut = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False) if inputs != outputs else None

    def forward(self, maps: Tensor) -> Tensor:
        """[N, inputs, H, W] to [N, outputs, H / stride, W / stride]."""
        active = functional.relu(self.bn1(maps), inplace=True)
        out = self.conv2(functional.relu(self.bn2(self.conv1(active)), inplace=True))
        return out + (maps if self.convShortcut is None else self.convShortcut(active))


class Group(nn.Module):
    """Blocks of one width; the first one changes the shape."""

    def __init__(self, depth: int, inputs: int, outputs: int, stride: int) -> None:
        """`depth` blocks."""
        super().__init__()
        first = PreActivationBlock(inputs, outputs, stride)
        self.layer = nn.Sequential(first, *(PreActivationBlock(outputs, outputs, 1) for _ in range(depth - 1)))

    def forward(self, maps: Tensor) -> Tensor:
        """[N, inputs, H, W] to [N, outputs, H / stride, W / stride]."""
        return self.layer(maps)


class WideResNet(nn.Module):
    """Three groups, BatchNorm, ReLU, global average, linear layer."""

    blocks: tuple[str, ...] = ("block1", "block2", "block3")
    head: str = "fc"

    def __init__(self, depth: int, width: int, classes: int, channels: int) -> None:
        """`depth` is the number of layers, 6n + 4; `width` is the paper's k."""
        super().__init__()
        each = (depth - 4) // 6
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.block1 = Group(each, 16, 16 * width, 1)
        self.block2 = Group(each, 16 * width, 32 * width, 2)
        self.block3 = Group(each, 32 * width, 64 * width, 2)
        self.bn1 = nn.BatchNorm2d(64 * width)
        self.fc = nn.Linear(64 * width, classes)
        he(self)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised [N, C, H, W] to [N, K] logits."""
        maps = self.block3(self.block2(self.block1(self.conv1(images))))
        return self.fc(functional.relu(self.bn1(maps), inplace=True).mean((2, 3)))


def build(arch: str, classes: int, channels: int, size: int) -> nn.Module:
    """`wrn_D_K`: depth D = 6n + 4, at least 10, and width K, at least 1.

    Raises:
        ParamsError: another name, or a size under 8.
    """
    found = re.fullmatch(r"wrn_(\d{1,4})_(\d{1,3})", arch)
    if found is None or int(found[1]) < 10 or int(found[1]) % 6 != 4 or int(found[2]) < 1:
        raise unknown(arch, (*NAMES, "any wrn_D_K with D = 6n + 4 from 10 and K from 1"))
    require(arch, classes, channels, size, _SMALLEST)
    return WideResNet(int(found[1]), int(found[2]), classes, channels)
