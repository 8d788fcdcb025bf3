"""Random rolls of a whole batch."""

import torch
from torch import Tensor

__all__ = ["roll"]


def roll(images: Tensor, most: int, rng: torch.Generator) -> Tensor:
    """[N, C, H, W] moved by one random offset of -most..most pixels along each axis; what leaves comes back opposite.

    The jitter of DeepInversion (Yin et al., CVPR 2020) and of feature visualisation before it. The offset comes from a
    CPU generator as plain numbers, so that a GPU is never waited for.
    """
    if most == 0:
        return images
    down, right = torch.randint(-most, most + 1, (2,), generator=rng).tolist()
    return torch.roll(images, (down, right), (2, 3))
