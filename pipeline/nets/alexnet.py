"""AlexNet for small images, and its half.

Five convolutions and three linear layers in the proportions that data-free distillation uses on CIFAR
(zero-shot distillation, Nayak et al. 2019, arXiv 1905.08114). Local response normalisation is replaced by
BatchNorm after each convolution. Two choices are ours: no dropout (a student that learns from stored logits does
not need it), and no BatchNorm on the linear layers.
"""

from torch import Tensor, nn

from .layers import he, require, unknown

__all__ = ["NAMES", "AlexNet", "build"]

NAMES = ("alexnet", "alexnet_half")

_SMALLEST = 15  # three 3x3 pools of stride 2 leave one pixel


class AlexNet(nn.Module):
    """Convolutions of 48, 128, 192, 192, 128 feature maps, hidden layers of 512 and 256 units."""

    blocks: tuple[str, ...] = ("block1", "block2", "block3", "block4", "block5")
    head: str = "linear"

    def __init__(self, divisor: int, classes: int, channels: int, size: int) -> None:
        """Every width is divided by `divisor`."""
        super().__init__()
        maps = [width // divisor for width in (48, 128, 192, 192, 128)]
        units = [width // divisor for width in (512, 256)]
        side = size
        for _ in range(3):
            side = (side - 3) // 2 + 1
        self.block1 = _block(channels, maps[0], kernel=5, pool=True)
        self.block2 = _block(maps[0], maps[1], kernel=5, pool=True)
        self.block3 = _block(maps[1], maps[2], kernel=3, pool=False)
        self.block4 = _block(maps[2], maps[3], kernel=3, pool=False)
        self.block5 = _block(maps[3], maps[4], kernel=3, pool=True)
        self.hidden1 = nn.Sequential(nn.Flatten(), nn.Linear(maps[4] * side * side, units[0]), nn.ReLU())
        self.hidden2 = nn.Sequential(nn.Linear(units[0], units[1]), nn.ReLU())
        self.linear = nn.Linear(units[1], classes)
        he(self)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised [N, C, H, W] to [N, K] logits."""
        maps = self.block5(self.block4(self.block3(self.block2(self.block1(images)))))
        return self.linear(self.hidden2(self.hidden1(maps)))


def build(arch: str, classes: int, channels: int, size: int) -> nn.Module:
    """`alexnet`, or `alexnet_half` with every width halved.

    Raises:
        ParamsError: another name, or a size under 15.
    """
    if arch not in NAMES:
        raise unknown(arch, NAMES)
    require(arch, classes, channels, size, _SMALLEST)
    return AlexNet(1 if arch == "alexnet" else 2, classes, channels, size)


def _block(inputs: int, outputs: int, *, kernel: int, pool: bool) -> nn.Sequential:
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    ]
    if pool:
        layers.append(nn.MaxPool2d(3, stride=2))
    return nn.Sequential(*layers)
