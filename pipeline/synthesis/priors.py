"""What images look like before a teacher is asked; pure functions, each returns one number per image, [N]."""

from torch import Tensor

__all__ = ["total_variation"]


def total_variation(images: Tensor) -> Tensor:
    """Anisotropic l1 total variation: the sum of |differences| between horizontal and vertical neighbours, [N].

    Rudin, Osher and Fatemi (1992), in the anisotropic form; summed, not averaged, over pixels and channels.
    """
    right = (images[..., 1:] - images[..., :-1]).abs().flatten(1).sum(1)
    down = (images[..., 1:, :] - images[..., :-1, :]).abs().flatten(1).sum(1)
    return right + down
