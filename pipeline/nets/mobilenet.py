"""MobileNetV2 for small images (Sandler et al. 2018, arXiv 1801.04381, table 2).

The first convolution and the second stage keep the resolution (stride 1 in place of 2), so that a 32-pixel image
ends in 4x4 maps. Dropout before the classifier is left out. Parameters are named as in torchvision's MobileNetV2,
so that CIFAR checkpoints derived from it fit.
"""

from torch import Tensor, nn

from .layers import he, require, unknown

__all__ = ["NAMES", "InvertedResidual", "MobileNetV2", "build"]

NAMES = ("mobilenet_v2",)

_SMALLEST = 8
_STEM, _LAST = 32, 1280
_STAGES = (  # expansion, feature maps, blocks, stride
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class InvertedResidual(nn.Module):
    """Expand (1x1), filter each channel (3x3 depthwise), project without activation (1x1)."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        """The block adds its input where the shape stays the same."""
        super().__init__()
        hidden = inputs * expansion
        layers: list[nn.Module] = [] if expansion == 1 else [_unit(inputs, hidden, kernel=1)]
        layers.append(_unit(hidden, hidden, kernel=3, stride=stride, groups=hidden))
        layers += [nn.Conv2d(hidden, outputs, 1, bias=False), nn.BatchNorm2d(outputs)]
        self.conv = nn.Sequential(*layers)
        self.adds = stride == 1 and inputs == outputs

    def forward(self, maps: Tensor) -> Tensor:
        """[N, inputs, H, W] to [N, outputs, H / stride, W / stride]."""
        return maps + self.conv(maps) if self.adds else self.conv(maps)


class MobileNetV2(nn.Module):
    """The stem, seventeen inverted residuals, a 1x1 convolution to 1280 maps, global average, linear layer."""

    blocks: tuple[str, ...] = ("features.3", "features.6", "features.13", "features.18")  # last ones per resolution
    head: str = "classifier.1"

    def __init__(self, classes: int, channels: int) -> None:
        """Width multiplier 1."""
        super().__init__()
        layers: list[nn.Module] = [_unit(channels, _STEM, kernel=3)]
        inputs = _STEM
        for expansion, outputs, count, stride in _STAGES:
            for number in range(count):
                layers.append(InvertedResidual(inputs, outputs, stride if number == 0 else 1, expansion))
                inputs = outputs
        self.features = nn.Sequential(*layers, _unit(inputs, _LAST, kernel=1))
        self.classifier = nn.Sequential(nn.Identity(), nn.Linear(_LAST, classes))
        he(self)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised [N, C, H, W] to [N, K] logits."""
        return self.classifier(self.features(images).mean((2, 3)))


def build(arch: str, classes: int, channels: int, size: int) -> nn.Module:
    """`mobilenet_v2`.

    Raises:
        ParamsError: another name, or a size under 8.
    """
    if arch not in NAMES:
        raise unknown(arch, NAMES)
    require(arch, classes, channels, size, _SMALLEST)
    return MobileNetV2(classes, channels)


def _unit(inputs: int, outputs: int, *, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU6(inplace=True))
