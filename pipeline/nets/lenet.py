"""LeNet-5, its half, and LeNet-5 with BatchNorm.

LeCun et al. (1998), in the form that data-free distillation uses: ReLU and max-pooling, every feature map of a
layer connected to every one of the next.
"""

from torch import Tensor, nn

from .layers import MaxPool2x2, StemConv2d, he, require, unknown

__all__ = ["NAMES", "LeNet", "build"]

NAMES = ("lenet5", "lenet5_half", "lenet5_bn")

_SMALLEST = 12
_PADDED_BELOW = 32  # the original takes 28-pixel digits in a 32-pixel frame


class LeNet(nn.Module):
    """Two 5x5 convolutions with 2x2 max-pooling, then three linear layers.

    Images under 32 pixels get the original's frame of two zero pixels, so that 28 and 32 make the same network:
    61,706 parameters for one channel and ten classes.
    """

    blocks: tuple[str, ...] = ("conv1", "conv2")
    head: str = "linear"

    def __init__(
        self, widths: tuple[int, int, int, int], classes: int, channels: int, size: int, *, batch_norm: bool = False
    ) -> None:
        """Widths are those of the two convolutions and the two hidden layers.

        With `batch_norm` each of these four is followed by a BatchNorm layer, for methods that match its statistics.
        """
        super().__init__()
        first, second, third, fourth = widths
        padding = 2 if size < _PADDED_BELOW else 0
        side = ((size + 2 * padding - 4) // 2 - 4) // 2

        def norm(kind: type[nn.BatchNorm1d | nn.BatchNorm2d], width: int) -> list[nn.Module]:
            return [kind(width)] if batch_norm else []

        stem = StemConv2d(channels, first, 5, padding=padding)
        self.conv1 = nn.Sequential(stem, *norm(nn.BatchNorm2d, first), nn.ReLU(), MaxPool2x2())
        self.conv2 = nn.Sequential(nn.Conv2d(first, second, 5), *norm(nn.BatchNorm2d, second), nn.ReLU(), MaxPool2x2())
        flat = nn.Linear(second * side * side, third)
        self.hidden1 = nn.Sequential(nn.Flatten(), flat, *norm(nn.BatchNorm1d, third), nn.ReLU())
        self.hidden2 = nn.Sequential(nn.Linear(third, fourth), *norm(nn.BatchNorm1d, fourth), nn.ReLU())
        self.linear = nn.Linear(fourth, classes)
        he(self)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised [N, C, H, W] to [N, K] logits."""
        return self.linear(self.hidden2(self.hidden1(self.conv2(self.conv1(images)))))


def build(arch: str, classes: int, channels: int, size: int) -> nn.Module:
    """`lenet5` (6, 16, 120, 84), `lenet5_half`, which halves each of these widths, or `lenet5_bn` with BatchNorm.

    Raises:
        ParamsError: another name, or a size under 12.
    """
    if arch not in NAMES:
        raise unknown(arch, NAMES)
    require(arch, classes, channels, size, _SMALLEST)
    widths = (3, 8, 60, 42) if arch == "lenet5_half" else (6, 16, 120, 84)
    return LeNet(widths, classes, channels, size, batch_norm=arch == "lenet5_bn")
