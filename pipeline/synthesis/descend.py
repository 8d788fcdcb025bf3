"""The one pixel loop: Adam on a batch of images under a frozen teacher."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Concatenate, Literal, ParamSpec

import torch
from torch import Tensor, nn

from pipeline import nets
from pipeline.core.device import Compute
from pipeline.core.schedule import cosine, warming

__all__ = ["Adam", "Bound", "Keep", "Schedule", "descend", "keep_in_range", "quick"]

P = ParamSpec("P")
Bound = Literal["clamp", "rescale", "free"]
Keep = Literal["last", "best"]
Schedule = Literal["constant", "cosine"]
Objective = Callable[[Tensor], Tensor]
Watch = Callable[[Tensor, int], bool]


@dataclass(frozen=True)
class Adam:
    """Kingma and Ba (2015), with a schedule of the step size."""

    learning_rate: float  # the highest, in [0, 1] pixel units per step
    betas: tuple[float, float] = (0.9, 0.999)
    schedule: Schedule = "constant"  # after the warm-up
    warmup: int = 0  # steps, linear from 0

    def rate(self, step: int, steps: int) -> float:
        """The step size of step 0, 1, ..., `steps` - 1."""
        rising = warming(step, self.warmup)
        if rising is not None:
            return self.learning_rate * rising
        return self.learning_rate * (cosine(step, steps, self.warmup) if self.schedule == "cosine" else 1.0)


def descend(
    images: Tensor,
    objective: Objective,
    *,
    steps: int,
    adam: Adam,
    bound: Bound,
    compute: Compute,
    keep: Keep = "last",
    watch: Watch | None = None,
) -> Tensor:
    """Minimise a sum of losses, each of one image or of one group of images, over the pixels.

    Losses are summed, not averaged, so that an image does not depend on how many others share its batch. Nothing in
    the loop makes the host wait for the device.

    Args:
        images: [N, C, H, W] starting points in [0, 1], on the device; left unchanged.
        objective: images to losses [L], where N is a multiple of L and loss i belongs to the i-th N / L images; runs
            under `compute`'s autocast.
        steps: Adam steps.
        adam: the optimiser's settings.
        bound: how pixels are kept in [0, 1], see `keep_in_range`.
        compute: precision and memory layout.
        keep: ``last`` iterate, or for each loss the ``best`` one: the images of the lowest loss seen, copied when they
            were seen. (The released DeepInversion script for CIFAR-10 keeps a reference, which goes on changing.)
        watch: called without gradient as (images, steps done) after each step; returning True ends the loop. It must
            copy what it wants to keep: the images go on changing in place.

    Returns:
        [N, C, H, W] float32 in [0, 1].
    """
    layout = torch.channels_last if compute.channels_last else torch.contiguous_format
    pixels = images.detach().float().clone(memory_format=layout).requires_grad_()
    optimiser = torch.optim.Adam([pixels], lr=adam.learning_rate, betas=adam.betas, fused=True)
    best = _Best() if keep == "best" else None
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = adam.rate(step, steps)
        with compute.autocast():
            losses = objective(pixels)
        (gradient,) = torch.autograd.grad(losses.float().sum(), pixels)
        # The fused optimiser walks through both in the order of memory, without a look at their strides.
        pixels.grad = gradient.contiguous(memory_format=layout)
        with torch.no_grad():
            if best is not None:
                best.look(pixels, losses)
            optimiser.step()
            keep_in_range(pixels, bound)
            if watch is not None and watch(pixels, step + 1):
                break
    if best is not None:
        # With gradients on, as in the loop: without, a compiled objective would be compiled once more.
        with compute.autocast():
            losses = objective(pixels)
        with torch.no_grad():
            best.look(pixels, losses)
    found = pixels.detach() if best is None else best.images
    return found.clamp(0, 1).contiguous()


def quick(
    loss: Callable[Concatenate[Tensor, P], Tensor],
    net: nn.Module,
    shape: tuple[int, int, int, int],
    steps: int,
    compute: Compute,
) -> Callable[Concatenate[Tensor, P], Tensor]:
    """A method's loss, compiled where that pays. To be called once per source, not once per batch.

    Args:
        loss: a pure function of views [N, C, H, W] and other tensors, through `net`; whatever is random is decided
            outside of it.
        net: the teacher, frozen, where it will run.
        shape: of the images of one step.
        steps: of one optimisation.
        compute: says whether to compile.
    """
    # The gradient with respect to the input costs as much as the forward pass; the frozen weights need none.
    one = torch.zeros((1, *shape[1:]), device=compute.torch_device())
    run = compute.compiled(loss, calls=steps, flops=2 * shape[0] * nets.flops(net, one), graph=True)
    layout = torch.channels_last if compute.channels_last else torch.contiguous_format

    def laid_out(view: Tensor, *others: P.args, **named: P.kwargs) -> Tensor:
        # A roll or a flip may change the strides; each order of strides would be compiled anew, and run slower.
        view = view.contiguous(memory_format=layout)
        if view.shape[1] == 1:  # in both orders at once, so whichever strides it came with were left: make them one
            view = view.squeeze(1).unsqueeze(1)
        return run(view, *others, **named)

    return laid_out


def keep_in_range(images: Tensor, bound: Bound) -> None:
    """Bring each image of [N, C, H, W] back into [0, 1], in place.

    ``clamp`` cuts each pixel off. ``rescale`` maps each image's own minimum and maximum to 0 and 1, as ZSKD's
    released code does for the whole batch at once; per image, because a batch-wide range ties every image to its
    batch mates. A constant image stays as it is. ``free`` does nothing: pixels roam until the last step is done.
    """
    if bound == "free":
        return
    if bound == "clamp":
        images.clamp_(0, 1)
        return
    low = images.amin(dim=(1, 2, 3), keepdim=True)
    span = images.amax(dim=(1, 2, 3), keepdim=True) - low
    constant = span == 0
    images.sub_(torch.where(constant, 0, low)).div_(torch.where(constant, 1, span)).clamp_(0, 1)


class _Best:
    """A copy of the images at the lowest loss so far, made on the device."""

    def __init__(self) -> None:
        self.images = torch.empty(0)
        self._losses = torch.empty(0)

    def look(self, images: Tensor, losses: Tensor) -> None:
        losses = losses.detach().float()
        if not len(self.images):
            self.images, self._losses = images.detach().clone(), losses.clone()
            return
        better = losses < self._losses
        self._losses = torch.where(better, losses, self._losses)
        chosen = better.repeat_interleave(len(images) // len(losses)).view(-1, *[1] * (images.dim() - 1))
        self.images = torch.where(chosen, images, self.images)
