"""The generator that data-free methods share: noise in, images out.

Radford et al.'s generator (2016) with upsampling in place of transposed convolutions, as in the released code of DAFL,
ZSKT and DFAD: linear layer, BatchNorm, twice (double the size, 3x3 convolution, BatchNorm, LeakyReLU), 3x3
convolution, optionally tanh, and a last BatchNorm which brings the images to the scale of normalised data.
"""

import hashlib
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import PositiveFloat, PositiveInt
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional

from ..core.errors import ParamsError, ShardError
from ..core.files import canonical_json
from ..core.params import Block, build
from .layers import drawing_from
from .weights import DamagedError, Shapes, fill, read, reported, shapes_of

__all__ = [
    "Generator",
    "GeneratorCard",
    "GeneratorParams",
    "UpConv2d",
    "build_generator",
    "generator_bytes",
    "load_generator",
]

_SLOPE = 0.2  # of LeakyReLU, in all three
_DIGEST = "sha256"  # in a file's metadata, beside the card
_SHRINK = 4  # the first maps' side is a quarter of the image's


class GeneratorParams(Block):
    """The shape of a generator."""

    latent_dim: PositiveInt  # of z ~ N(0, I)
    widths: tuple[PositiveInt, PositiveInt]  # feature maps: of the first two stages, of the third; (128, 64) published
    epsilon: PositiveFloat  # of the two inner BatchNorm layers; 0.8 in DAFL's released code
    tanh: bool  # before the last BatchNorm; DAFL and DFAD: true, ZSKT: false
    affine: bool  # whether the last BatchNorm learns a scale and a shift; DAFL and DFAD: false, ZSKT: true


class GeneratorCard(Block):
    """What a generator's file says beside the weights, under "generator" in its metadata."""

    generator: GeneratorParams
    mean: tuple[float, ...]  # the teacher's, per channel, in [0, 1] units
    std: tuple[PositiveFloat, ...]
    size: PositiveInt  # the images' side in pixels
    bn_mode: Literal["train", "eval"]  # of BatchNorm when the dataset was drawn: the batch's statistics, running ones


class UpConv2d(nn.Conv2d):
    """Doubling by nearest neighbour, then a 3x3 convolution with padding 1, in one transposed convolution.

    Each output pixel sees four different input pixels instead of nine, so it takes 4/9 of the multiplications: two to
    three times faster, forward and backward. Equal up to rounding; the weights are those of the 3x3 convolution.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        """From `inputs` to `outputs` feature maps."""
        super().__init__(inputs, outputs, 3, padding=1)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """[N, inputs, H, W] to [N, outputs, 2H, 2W]."""
        # A 3x3 kernel after a 2x2 block of equal pixels is their convolution, 4x4.
        wide = functional.pad(self.weight.flip(2, 3), (1, 1, 1, 1))
        tall = wide[..., :-1, :] + wide[..., 1:, :]
        kernel = (tall[..., :-1] + tall[..., 1:]).transpose(0, 1)
        return functional.conv_transpose2d(input, kernel, self.bias, stride=2, padding=1)


class Generator(nn.Module):
    """z [N, D] to images [N, C, H, W] in [0, 1] units, which may leave that range: nothing bounds them."""

    mean: Tensor
    std: Tensor

    def __init__(self, params: GeneratorParams, mean: tuple[float, ...], std: tuple[float, ...], size: int) -> None:
        """Mean and std, per channel in [0, 1] units, are the teacher's; `size` is the images' side in pixels.

        Raises:
            ParamsError: a size that is no multiple of 4.
        """
        super().__init__()
        if size % _SHRINK:
            raise ParamsError(f"generator: images of {size} pixels; expected a multiple of {_SHRINK}")
        first, last = params.widths
        self.params, self.size, self._side = params, size, size // _SHRINK
        self.linear = nn.Linear(params.latent_dim, first * self._side**2)
        self.bn0 = nn.BatchNorm2d(first)
        self.up1 = UpConv2d(first, first)
        self.bn1 = nn.BatchNorm2d(first, eps=params.epsilon)
        self.up2 = UpConv2d(first, last)
        self.bn2 = nn.BatchNorm2d(last, eps=params.epsilon)
        self.conv = nn.Conv2d(last, len(mean), 3, padding=1)
        self.bn3 = nn.BatchNorm2d(len(mean), affine=params.affine)
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, latents: Tensor) -> Tensor:
        """[N, D] to [N, C, H, W], normalised images brought back to [0, 1] units, in float32."""
        maps = self.bn0(self.linear(latents).unflatten(1, (-1, self._side, self._side)))
        maps = functional.leaky_relu(self.bn1(self.up1(maps)), _SLOPE)
        maps = functional.leaky_relu(self.bn2(self.up2(maps)), _SLOPE)
        maps = self.conv(maps)
        images = self.bn3(torch.tanh(maps) if self.params.tanh else maps)
        return images.float() * self.std + self.mean

    @torch.no_grad()
    def sample(self, count: int, rng: torch.Generator) -> Tensor:
        """[count, C, H, W] images, clamped to [0, 1].

        In training mode an image depends on the others of its batch; sample as many at once as in training.
        """
        return self(torch.randn(count, self.params.latent_dim, generator=rng).to(self.mean.device)).clamp(0, 1)


def build_generator(
    params: GeneratorParams, mean: tuple[float, ...], std: tuple[float, ...], size: int, rng: torch.Generator
) -> Generator:
    """A generator with torch's usual initial weights (as in the released codes), drawn from `rng`, on the CPU."""
    with drawing_from(rng):
        return Generator(params, mean, std, size)


def generator_bytes(state: Mapping[str, Tensor], card: GeneratorCard) -> bytes:
    """A generator's file: its weights and its card, under a digest of both."""
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    described = card.model_dump(mode="json") | {_DIGEST: _digest(tensors, card)}
    # One string: safetensors keeps several in random order.
    return save(tensors, metadata={"generator": canonical_json(described).decode()})


def load_generator(path: Path) -> Generator:
    """A generator that was left beside a dataset, on the CPU, in the mode in which the dataset was drawn from it.

    Args:
        path: a `generator-*.safetensors` of a dataset's folder; it may be damaged or hostile.

    Raises:
        ShardError: not such a file, damaged, or one whose weights are not those of the generator that it describes.
    """
    with reported(ShardError, "fetch or make the dataset again"):
        weights, metadata = read(path, str(path), partial(_check, path))
        card, digest = _card(metadata, path)
        if digest != _digest(weights, card):
            raise DamagedError(f"{path}: damaged: its weights or its card are not those that were written")
        with drawing_from(None):
            net = _generator(card)
        fill(net, weights, str(path))
    return net.train(card.bn_mode == "train")


def _card(metadata: Mapping[str, str], path: Path) -> tuple[GeneratorCard, str]:
    """The card and the digest that a file's metadata holds."""
    try:
        described: Any = json.loads(metadata["generator"])
        digest = described.pop(_DIGEST, None)
        return build(GeneratorCard, described, "generator"), digest
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, ParamsError) as error:
        raise DamagedError(f"{path}: not a generator's file ({' '.join(str(error).split())[:300]})") from error


def _check(path: Path, shapes: Shapes, metadata: Mapping[str, str]) -> None:
    """Whether these are the weights of the generator that the card describes, which may be larger than any memory."""
    card, _ = _card(metadata, path)
    try:
        with torch.device("meta"):
            expected = shapes_of(_generator(card).state_dict())
    except (ValueError, TypeError, RuntimeError, ParamsError) as error:
        raise DamagedError(f"{path}: not a generator's file ({' '.join(str(error).split())[:300]})") from error
    if shapes != expected:
        raise DamagedError(f"{path}: weights of another generator than its metadata describes")


def _generator(card: GeneratorCard) -> Generator:
    if len(card.mean) != len(card.std):
        raise ParamsError(f"generator: {len(card.mean)} means, {len(card.std)} standard deviations")
    return Generator(card.generator, card.mean, card.std, card.size)


def _digest(weights: Mapping[str, Tensor], card: GeneratorCard) -> str:
    """sha256 of the card, and of every tensor's name and bytes."""
    digest = hashlib.sha256(canonical_json(card.model_dump(mode="json")))
    for name, value in sorted(weights.items()):
        digest.update(f"{name} {value.dtype}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
