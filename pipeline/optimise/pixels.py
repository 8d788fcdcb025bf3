"""The one pixel loop, Adam on a batch of images under a frozen teacher, and what the methods around it share."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from typing import Concatenate, Literal, NamedTuple, ParamSpec

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.optim.adam import adam as adam_step

from .. import nets
from ..core.device import Compute
from ..core.errors import MethodError
from ..core.params import Block
from .learner import cosine, warming

__all__ = [
    "Adam",
    "Bound",
    "Init",
    "Keep",
    "Part",
    "Schedule",
    "balanced",
    "batches_of_groups",
    "descend",
    "keep_in_range",
    "one_hot",
    "quick",
    "roll",
]

P = ParamSpec("P")
Bound = Literal["clamp", "rescale", "free"]
Keep = Literal["last", "best"]
Schedule = Literal["constant", "cosine"]
Objective = Callable[[Tensor], Tensor]
Watch = Callable[[Tensor, int], bool]

_EPSILON = 1e-8  # Kingma and Ba (2015), algorithm 1
_LOOK_EVERY = 50  # steps between two looks at the losses: each makes the host wait for the device


class Init(Block):
    """Where the optimisation of an image starts: noise, drawn on a grid of `resolution` pixels a side and enlarged.

    A coarse grid starts from blobs instead of single pixels; what the optimisation leaves untouched stays smooth.
    Mean and standard deviation are those on the grid, before it is enlarged and cut off at 0 and 1.
    """

    distribution: Literal["uniform", "normal"]
    mean: float  # in [0, 1] pixel units
    std: NonNegativeFloat  # standard deviation, in [0, 1] pixel units; U[0, 1] is uniform with 0.5 and 0.288675
    resolution: PositiveInt  # pixels a side; from the image's size upwards the noise is per pixel

    def draw(self, shape: tuple[int, int, int, int], rng: torch.Generator) -> Tensor:
        """Starting images of `shape` [N, C, H, W], float32 in [0, 1]."""
        count, channels, height, width = shape
        grid = (count, channels, min(height, self.resolution), min(width, self.resolution))
        if self.distribution == "uniform":  # on [-1, 1], whose standard deviation is 1 / sqrt(3)
            noise, factor = 2 * torch.rand(grid, generator=rng) - 1, self.std * 3**0.5
        else:
            noise, factor = torch.randn(grid, generator=rng), self.std
        if grid != shape:
            noise = interpolate(noise, size=(height, width), mode="bicubic", align_corners=False)
        return (self.mean + factor * noise).clamp(0, 1)


def balanced(count: int, groups: int, rng: torch.Generator) -> Tensor:
    """Group indices [count], each group equally often; what does not divide goes to distinct random groups."""
    rounds, rest = divmod(count, groups)
    tail = torch.randperm(groups, generator=rng)[:rest]
    return torch.cat([torch.arange(groups).repeat(rounds), tail])


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """[N] class indices to [N, K] float32 distributions."""
    return nn.functional.one_hot(labels, classes).float()


class Part(NamedTuple):
    """Images that are optimised together."""

    images: slice
    group: int  # images per group; the part holds a whole number of groups


def batches_of_groups(count: int, group: int, groups: int) -> list[Part]:
    """Divide `count` images into groups of `group` and batches of at most `groups` groups.

    What does not divide is spread: ceil(count / group) groups, whose sizes differ by one image at most, so that no
    group is too small for its statistics. Groups of different sizes never share a batch.
    """
    number = -(-count // group)
    sizes = [count // number + (place < count % number) for place in range(number)]
    parts: list[Part] = []
    first = 0
    for size, run in groupby(sizes):
        left = len(list(run))
        while left:
            now = min(left, groups)
            parts.append(Part(slice(first, first + now * size), size))
            first, left = first + now * size, left - now
    return parts


def roll(images: Tensor, most: int, rng: torch.Generator) -> Tensor:
    """[N, C, H, W] moved by one random offset of -most..most pixels along each axis; what leaves comes back opposite.

    The jitter of DeepInversion (Yin et al., CVPR 2020) and of feature visualisation before it. The offset comes from a
    CPU generator as plain numbers, so that a GPU is never waited for.
    """
    if most == 0:
        return images
    down, right = torch.randint(-most, most + 1, (2,), generator=rng).tolist()
    return torch.roll(images, (down, right), (2, 3))


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

    Losses are summed, not averaged, so that an image does not depend on how many others share its batch. The host
    waits for the device every fiftieth step alone, and in `watch`.

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

    Raises:
        MethodError: a loss is not finite.
    """
    layout = torch.channels_last if compute.channels_last else torch.contiguous_format
    pixels = images.detach().float().clone(memory_format=layout).requires_grad_()
    update = _Updates(pixels, adam, steps)
    best = _Best() if keep == "best" else None
    for step in range(steps):
        with compute.autocast():
            losses = objective(pixels)
        (gradient,) = torch.autograd.grad(losses.float().sum(), pixels)
        with torch.no_grad():
            if best is not None:
                best.look(pixels, losses)
            # The fused update walks through both in the order of memory, without a look at their strides.
            update(gradient.contiguous(memory_format=layout), step)
            keep_in_range(pixels, bound)
            stop = watch is not None and watch(pixels, step + 1)
            if stop or step + 1 == steps or (step + 1) % _LOOK_EVERY == 0:
                _require_finite(losses, step + 1, steps, adam)
            if stop:
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
        loss: a pure function of images [N, C, H, W] and other tensors, through `net`; whatever is random is decided
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

    def laid_out(images: Tensor, *others: P.args, **named: P.kwargs) -> Tensor:
        # A roll or a flip may change the strides; each order of strides would be compiled anew, and run slower.
        images = images.contiguous(memory_format=layout)
        if images.shape[1] == 1:  # in both orders at once, so whichever strides it came with were left: make them one
            images = images.squeeze(1).unsqueeze(1)
        return run(images, *others, **named)

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


class _Updates:
    """torch's own fused Adam as a function: constructing `torch.optim.Adam` imports the compiler, seconds of a core."""

    def __init__(self, pixels: Tensor, adam: Adam, steps: int) -> None:
        self._pixels, self._adam, self._steps = pixels, adam, steps
        self._first, self._second = torch.zeros_like(pixels), torch.zeros_like(pixels)
        self._count = torch.zeros((), device=pixels.device)

    def __call__(self, gradient: Tensor, step: int) -> None:
        adam_step(
            [self._pixels], [gradient], [self._first], [self._second], [], [self._count], fused=True, amsgrad=False,
            beta1=self._adam.betas[0], beta2=self._adam.betas[1], lr=self._adam.rate(step, self._steps),
            weight_decay=0.0, eps=_EPSILON, maximize=False,
        )  # fmt: skip


def _require_finite(losses: Tensor, done: int, steps: int, adam: Adam) -> None:
    broken = losses[~torch.isfinite(losses)]
    if len(broken):
        raise MethodError(
            f"step {done} of {steps}: the loss is {float(broken[0])}; lower learning_rate ({adam.learning_rate}), or "
            "the weights of the loss"
        )


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
