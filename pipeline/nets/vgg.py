"""VGG with BatchNorm for small images (Simonyan and Zisserman 2015, arXiv 1409.1556, configurations A and D).

The three linear layers of the original, made for 7x7 maps of 224-pixel images, give way to a global average and one
linear layer, as usual on CIFAR.
"""

from torch import Tensor, nn

from .layers import he, require, unknown

__all__ = ["NAMES", "VGG", "build"]

NAMES = ("vgg11_bn", "vgg16_bn")

_SMALLEST = 8
_WIDTHS = (64, 128, 256, 512, 512)
_DEPTHS = {"vgg11_bn": (1, 1, 2, 2, 2), "vgg16_bn": (2, 2, 3, 3, 3)}


class VGG(nn.Module):
    """Five blocks of 3x3 convolutions, each ending in 2x2 max-pooling.

    Pooling rounds up, so that images under 32 pixels, which run out of pixels before the fifth pool, pass too.
    """

    blocks: tuple[str, ...] = ("block1", "block2", "block3", "block4", "block5")
    head: str = "linear"

    def __init__(self, depths: tuple[int, ...], classes: int, channels: int) -> None:
        """`depths` are the numbers of convolutions per block."""
        super().__init__()
        inputs = channels
        for name, depth, outputs in zip(self.blocks, depths, _WIDTHS, strict=True):
            self.add_module(name, _block(depth, inputs, outputs))
            inputs = outputs
        self.linear = nn.Linear(inputs, classes)
        he(self)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised [N, C, H, W] to [N, K] logits."""
        maps = images
        for name in self.blocks:
            maps = self.get_submodule(name)(maps)
        return self.linear(maps.mean((2, 3)))


def build(arch: str, classes: int, channels: int, size: int) -> nn.Module:
    """One of `NAMES`.

    Raises:
        ParamsError: another name, or a size under 8.
    """
    if arch not in NAMES:
        raise unknown(arch, NAMES)
    require(arch, classes, channels, size, _SMALLEST)
    return VGG(_DEPTHS[arch], classes, channels)


def _block(depth: int, inputs: int, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for number in range(depth):
        convolution = nn.Conv2d(inputs if number == 0 else outputs, outputs, 3, padding=1, bias=False)
        layers += [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.MaxPool2d(2, ceil_mode=True))
