"""Belief match: how alike student and teacher change their beliefs on the way from one class to another.

Micaelli & Storkey (2019), "Zero-shot knowledge transfer via adversarial belief matching", section 4.5. Start from
images on which both name the same class i. For every other class j, walk up the gradient of log p_j of one of the two
networks, and watch p_j of both. Networks with the same decision boundaries change their minds at the same steps.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

from ..classifier import Student, Teacher
from ..core.device import Compute
from ..core.errors import ParamsError
from ..core.files import csv_bytes, write_output
from ..core.images import to_unit
from ..core.params import Block
from ..core.progress import track
from ..optimise.network import frozen

__all__ = ["BeliefMatch", "BeliefParams", "match_beliefs", "write_beliefs"]

_CURVES: tuple[str, ...] = ("student", "student_se", "teacher", "teacher_se")


class BeliefParams(Block):
    """The `evaluate.belief` block. The error depends on the number of steps and on their size: compare equal ones."""

    images: PositiveInt  # N, of those on which both name the same class; all of them where there are fewer
    steps: PositiveInt  # K
    step_size: PositiveFloat  # xi, in normalised units
    stepped: Literal["student", "teacher"]  # whose gradient is followed
    batch: PositiveInt  # pairs of image and target in one pass: speed and memory only


@dataclass(frozen=True)
class BeliefMatch:
    """What was found. Curves are float64 [K]; entry k is of images after k steps."""

    mte: float  # mean transition error: mean of |p_j of the student - p_j of the teacher| over images, targets, steps
    images: int  # that were walked from
    student: Tensor  # p_j, mean over images and targets
    student_se: Tensor  # standard error of that mean over pairs of image and target, taken as independent
    teacher: Tensor
    teacher_se: Tensor


def match_beliefs(
    student: Student,
    teacher: Teacher,
    images: Tensor,
    params: BeliefParams,
    rng: torch.Generator,
    compute: Compute,
) -> BeliefMatch | None:
    """Walk from real images towards every other class and compare the two networks' beliefs, in float32.

    The step is x <- x - xi d(-log p_j)/dx in normalised units: no sign, no projection into the range of pixels. Ours is
    taken on [0, 1] pixels: with x = mean + std u the gradient by u is std times the one by x, and a change of u is one
    of std times as much in x, so that the step in x is xi std^2 times the gradient by x, channel by channel.

    Args:
        student: takes [N, C, H, W] images in [0, 1], returns [N, K] logits. Both networks are in evaluation mode
            meanwhile, collect no gradients, and are left as they were found.
        teacher: likewise; units are of its normalisation.
        images: [M, C, H, W], uint8 or floats in [0, 1].
        params: how many images and steps.
        rng: puts the images in the order in which they are looked at, until enough are found on which both agree.
            Students that are measured with equal generators so walk from nearly the same images.
        compute: the device to use.

    Returns:
        None where there is nothing to walk from: the two agree on no image.

    Raises:
        ParamsError: steps so large that beliefs are no longer finite.
    """
    device, nets = compute.torch_device(), (compute.place(student), compute.place(teacher))
    stepped, other = nets if params.stepped == "student" else nets[::-1]
    step = params.step_size * torch.tensor(teacher.card.std, device=device).square().view(-1, 1, 1)
    totals = _Totals(params.steps)
    with frozen(student), frozen(teacher):
        found = _agreed(nets, images, params, rng, device)
        if not len(found[0]):
            return None
        for pixels, target in _pairs(*found, len(teacher.card.classes), params.batch):
            beliefs = _walk(stepped, other, _laid_out(pixels, compute), target.to(device), step, params.steps)
            totals.add(beliefs if params.stepped == "student" else beliefs.flip(0), params.step_size)
    return totals.match(len(found[0]))


def write_beliefs(match: BeliefMatch | None, path: Path) -> None:
    """Write the curves as CSV: step, student, student_se, teacher, teacher_se; only the header where there are none.

    Raises:
        WorkError: the disk is full.
    """
    columns = ("step", *_CURVES)
    curves = [] if match is None else [cast(list[float], getattr(match, name).tolist()) for name in _CURVES]
    lines = enumerate(zip(*curves, strict=True))
    rows = [dict(zip(columns, (step, *values), strict=True)) for step, values in lines]
    write_output(path, csv_bytes(rows, columns))


class _Totals:
    """Sums over pairs of image and target, per step."""

    def __init__(self, steps: int) -> None:
        self._pairs = 0
        self._sum = torch.zeros(2, steps, dtype=torch.float64)
        self._squares = torch.zeros(2, steps, dtype=torch.float64)
        self._apart = torch.zeros(steps, dtype=torch.float64)

    def add(self, beliefs: Tensor, step_size: float) -> None:
        """Add p_j [2, K, B] of student and teacher."""
        beliefs = beliefs.double()
        if not bool(torch.isfinite(beliefs).all()):
            raise ParamsError(
                f"evaluate.belief.step_size: {step_size}: beliefs are no longer finite; take smaller steps"
            )
        self._pairs += beliefs.shape[2]
        self._sum += beliefs.sum(2).cpu()
        self._squares += beliefs.square().sum(2).cpu()
        self._apart += (beliefs[0] - beliefs[1]).abs().sum(1).cpu()

    def match(self, images: int) -> BeliefMatch:
        mean = self._sum / self._pairs
        variance = (self._squares / self._pairs - mean.square()).clamp(min=0)  # rounding may dip below 0
        error = (variance / max(1, self._pairs - 1)).sqrt()
        return BeliefMatch(float(self._apart.mean()) / self._pairs, images, mean[0], error[0], mean[1], error[1])


def _agreed(
    nets: tuple[nn.Module, nn.Module], images: Tensor, params: BeliefParams, rng: torch.Generator, device: torch.device
) -> tuple[Tensor, Tensor]:
    """The first images, in random order, on which both name the same class: as given [N, C, H, W]; that class [N]."""
    places, classes, count = list[Tensor](), list[Tensor](), 0
    for part in torch.randperm(len(images), generator=rng).split(params.batch):
        with torch.no_grad():
            first, second = (net(to_unit(images[part]).to(device)).argmax(1).cpu() for net in nets)
        same = first == second
        places.append(part[same])
        classes.append(first[same])
        count += int(same.sum())
        if count >= params.images:
            break
    return images[torch.cat(places)[: params.images]], torch.cat(classes)[: params.images]


def _pairs(images: Tensor, own: Tensor, classes: int, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Every image [B, C, H, W] with every class [B] but its own, a batch at a time."""
    parts = torch.arange(len(images) * (classes - 1)).split(batch)
    for pair in track(parts, "belief match", unit="batch"):
        image, target = pair // (classes - 1), pair % (classes - 1)
        yield images[image], target + (target >= own[image])


def _walk(stepped: nn.Module, other: nn.Module, pixels: Tensor, target: Tensor, step: Tensor, steps: int) -> Tensor:
    """p_j [2, K, B] of both networks before each step that the first takes; [B, C, H, W] pixels change in place."""
    beliefs = torch.empty(2, steps, len(target), device=pixels.device)
    for number in range(steps):
        with torch.enable_grad():
            log_belief = _log_belief(stepped, pixels.requires_grad_(), target)
            (ascent,) = torch.autograd.grad(log_belief.sum(), pixels)  # a sum: the loss of each image is its own
        with torch.no_grad():
            beliefs[0, number] = log_belief.exp()
            beliefs[1, number] = _log_belief(other, pixels, target).exp()
            pixels.addcmul_(ascent, step)
    return beliefs


def _log_belief(net: nn.Module, pixels: Tensor, target: Tensor) -> Tensor:
    """Log p_j [B], which is minus the cross-entropy with class j."""
    return net(pixels).float().log_softmax(1).gather(1, target[:, None])[:, 0]


def _laid_out(images: Tensor, compute: Compute) -> Tensor:
    """Float pixels of our own, on the device, in its memory layout."""
    layout = torch.channels_last if compute.channels_last else torch.contiguous_format
    return to_unit(images).to(compute.torch_device()).clone(memory_format=layout)
