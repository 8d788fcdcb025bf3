"""What images look like before a teacher is asked: pure functions."""

import torch
from torch import Tensor

__all__ = ["norm", "total_variation", "total_variation_l2"]


def total_variation(images: Tensor) -> Tensor:
    """Anisotropic l1 total variation: the sum of |differences| between horizontal and vertical neighbours, [N].

    Rudin, Osher and Fatemi (1992), in the anisotropic form; summed, not averaged, over pixels and channels.
    """
    right = (images[..., 1:] - images[..., :-1]).abs().flatten(1).sum(1)
    down = (images[..., 1:, :] - images[..., :-1, :]).abs().flatten(1).sum(1)
    return right + down


def total_variation_l2(images: Tensor, group: int) -> Tensor:
    """l2 total variation over the four differences to the right, downwards and along both diagonals, [groups].

    The sum of the Frobenius norms of the four difference tensors, each over all images of a group: DeepInversion, Yin
    et al. (CVPR 2020), equation 3, in the form of its released code. It grows with the square root of the group.

    Args:
        images: [N, C, H, W].
        group: images per group; N is a multiple of it.
    """
    grouped = images.unflatten(0, (-1, group))
    differences = (
        grouped[..., :, :-1] - grouped[..., :, 1:],
        grouped[..., :-1, :] - grouped[..., 1:, :],
        grouped[..., :-1, 1:] - grouped[..., 1:, :-1],
        grouped[..., :-1, :-1] - grouped[..., 1:, 1:],
    )
    return torch.stack([torch.linalg.vector_norm(each, dim=(1, 2, 3, 4)) for each in differences]).sum(0)


def norm(images: Tensor) -> Tensor:
    """Euclidean norm of each image over all its pixels and channels, [N]; DeepInversion's R_l2, equation 3."""
    return torch.linalg.vector_norm(images, dim=(1, 2, 3))
