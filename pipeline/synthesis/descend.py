"""The one pixel loop: Adam on a batch of images under a frozen teacher."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from pipeline.core.device import Compute

__all__ = ["Bound", "descend", "keep_in_range"]

Bound = Literal["clamp", "rescale"]
Objective = Callable[[Tensor], Tensor]
Watch = Callable[[Tensor, int], bool]


def descend(
    images: Tensor,
    objective: Objective,
    *,
    steps: int,
    learning_rate: float,
    bound: Bound,
    compute: Compute,
    watch: Watch | None = None,
) -> Tensor:
    """Minimise a sum of per-image losses over the pixels.

    Losses are summed, not averaged, so that an image does not depend on how many others share its batch.

    Args:
        images: [N, C, H, W] starting points in [0, 1], on the device; left unchanged.
        objective: images to losses [N]; runs under `compute`'s autocast.
        steps: Adam steps.
        learning_rate: Adam's step size in [0, 1] pixel units per step.
        bound: how pixels are kept in [0, 1] after each step, see `keep_in_range`.
        compute: precision and memory layout.
        watch: called without gradient as (images, steps done) after each step; returning True ends the loop. It must
            copy what it wants to keep: the images go on changing in place.

    Returns:
        The last iterate, [N, C, H, W] float32 in [0, 1].
    """
    layout = torch.channels_last if compute.channels_last else torch.contiguous_format
    pixels = images.detach().float().clone(memory_format=layout).requires_grad_()
    optimiser = torch.optim.Adam([pixels], lr=learning_rate, fused=True)
    for done in range(1, steps + 1):
        with compute.autocast():
            losses = objective(pixels)
        (pixels.grad,) = torch.autograd.grad(losses.float().sum(), pixels)
        optimiser.step()
        with torch.no_grad():
            keep_in_range(pixels, bound)
            if watch is not None and watch(pixels, done):
                break
    return pixels.detach().contiguous()


def keep_in_range(images: Tensor, bound: Bound) -> None:
    """Bring each image of [N, C, H, W] back into [0, 1], in place.

    ``clamp`` cuts each pixel off. ``rescale`` maps each image's own minimum and maximum to 0 and 1, as ZSKD's
    released code does for the whole batch at once; per image, because a batch-wide range ties every image to its
    batch mates. A constant image stays as it is.
    """
    if bound == "clamp":
        images.clamp_(0, 1)
        return
    low = images.amin(dim=(1, 2, 3), keepdim=True)
    span = images.amax(dim=(1, 2, 3), keepdim=True) - low
    constant = span == 0
    images.sub_(torch.where(constant, 0, low)).div_(torch.where(constant, 1, span)).clamp_(0, 1)
