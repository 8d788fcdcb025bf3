"""Virtual interpolation: a further loss on mixtures of the images of a batch."""

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import PositiveFloat
from torch import Tensor

from pipeline.core.params import Block
from pipeline.core.rng import numpy_generator
from pipeline.transfer.losses import mix

__all__ = ["Interpolation", "virtual", "virtual_shares"]


class Interpolation(Block):
    """Beside the loss on a batch, `weight` times the same loss on the batch mixed with itself.

    A reconstruction of the virtual interpolation of Qu, Wang & Xiao (ICASSP 2021), of which neither code nor the text
    of the method is public: what is mixed with what, the weight and the distribution of the shares are this project's.
    """

    weight: PositiveFloat  # of the loss on the mixed batch; that on the batch itself has 1
    alpha: PositiveFloat  # of Beta(alpha, alpha), from which each image's share of its mixture is drawn
    labels: Literal["interpolated", "teacher"]  # of a mixture: its two labels, mixed alike, or what the teacher says


def virtual_shares(alpha: float, batch: int, rng: torch.Generator) -> Tensor:
    """[batch] float32 in [0, 1], each from Beta(alpha, alpha), on the CPU."""
    return torch.from_numpy(numpy_generator(rng).beta(alpha, alpha, batch)).float()


def virtual(
    images: Tensor, labels: Tensor, share: Tensor, teacher: Callable[[Tensor], Tensor] | None
) -> tuple[Tensor, Tensor]:
    """A batch's virtual images and their labels, as `mix` makes them.

    Args:
        images: [B, C, H, W] in [0, 1]; the virtual ones have their memory layout.
        labels: [B, K] logits or probabilities of these images.
        share: [B] in [0, 1], on the device of the images, as `virtual_shares` draws them.
        teacher: images to [B, K] logits, asked without a graph for the virtual labels; None: they are interpolated.
    """
    mixed = mix(images, share)
    if teacher is None:
        return mixed, mix(labels, share)
    with torch.no_grad():
        return mixed, teacher(mixed)
