"""What makes a shard's bytes: draw, check, quantise, ask the teacher once about what is stored, encode.

Everything that decides a byte, and nothing else, stands here and in what this imports: work that waits for the next run
is keyed by that code (see `core.code.work_fingerprint`).
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..classifier import Teacher
from ..core.errors import MethodError, ParamsError, TeacherError
from ..core.files import crash_point
from ..core.images import to_uint8, to_unit
from ..core.rng import stream
from ..optimise.source import Batch, Numbered, Source, draw
from .encode import encode_shard
from .layout import Encoding, Split, shard_name

__all__ = ["MadeShard", "ShardMaker", "ShardPlan", "Workshop", "fit_stream", "label", "make_shard", "quantise"]

_LABEL_BATCH = 256  # images per question to the teacher; bounds memory, stays fixed since it can move a last digit
_PNG_CHANNELS = (1, 3)
_SUM_TOLERANCE = 1e-4  # of a target's sum, in float32


@dataclass(frozen=True)
class ShardPlan:
    """One shard to make. Its content depends on (seed, method, split, index) and its size, never on the total."""

    split: Split
    index: int
    samples: int

    @property
    def name(self) -> str:
        """The shard's file name, such as ``train-00000.tar``."""
        return shard_name(self.split, self.index)

    @property
    def number(self) -> int:
        """The shard's number for a source: 0, 1, 2, ... in train; -1, -2, ... in holdout."""
        return self.index if self.split == "train" else -1 - self.index


class Workshop(NamedTuple):
    """What a worker needs to make shards."""

    source: Source | Numbered
    teacher: Teacher  # on the device it is to be asked on


class MadeShard(NamedTuple):
    """A shard in memory."""

    plan: ShardPlan
    content: bytes
    histogram: tuple[int, ...]  # samples per class, by stored label
    agree: int  # samples whose stored label is the teacher's first choice
    seconds: float


@dataclass(frozen=True)
class ShardMaker:
    """How one dataset's shards are made; calling it opens the workshop and returns the function that makes a shard.

    Picklable, so that a worker process can open its own.
    """

    open: Callable[[], Workshop]  # a module-level function, or a functools.partial of one
    seed: int
    method: str
    encoding: Encoding
    soft_targets: bool  # whether the targets are stored

    def __call__(self) -> Callable[[ShardPlan], MadeShard]:
        """Open the workshop."""
        workshop = self.open()
        return lambda plan: make_shard(workshop, plan, self)


def fit_stream(seed: int, method: str) -> torch.Generator:
    """The random numbers of a method's fit."""
    return stream(seed, f"{method}/fit")


def make_shard(workshop: Workshop, plan: ShardPlan, maker: ShardMaker) -> MadeShard:
    """Make one shard; a pure function of the workshop, (seed, method, split, index) and the encoding.

    The label of a sample (`cls`) is the class that it was steered towards; where it was steered towards none, it is the
    teacher's own first choice.

    Raises:
        ParamsError: png cannot hold the teacher's channels.
        MethodError: wrong shapes, values that are not finite, images outside [0, 1], targets that are no distributions.
        TeacherError: the teacher's answer is not finite.
    """
    start = time.perf_counter()
    channels = workshop.teacher.card.channels
    if maker.encoding == "png" and channels not in _PNG_CHANNELS:
        raise ParamsError(f"shards.encoding: 'png': a picture of {channels} channels does not fit; use npy")
    rng = stream(maker.seed, f"{maker.method}/{plan.split}", plan.index)
    batch = draw(workshop.source, plan.samples, rng, plan.number)
    _check(batch, plan, maker, workshop.teacher)
    crash_point("shard:drawn")

    images = quantise(batch.images, maker.encoding)
    logits = label(workshop.teacher, images)
    choice = logits.argmax(dim=1)
    targets = None if batch.targets is None else batch.targets.detach().float().cpu()
    cls = choice if targets is None else targets.argmax(dim=1)
    stored_targets = targets if maker.soft_targets else None
    content = encode_shard(images, logits, stored_targets, cls, maker.encoding, plan.split, plan.index)
    histogram = tuple(int(number) for number in torch.bincount(cls, minlength=logits.shape[1]))
    return MadeShard(plan, content, histogram, int((choice == cls).sum()), round(time.perf_counter() - start, 3))


def quantise(images: Tensor, encoding: Encoding) -> Tensor:
    """[N, C, H, W] in [0, 1] to what is stored, on the CPU: uint8 for png, float16 for npy."""
    images = images.detach().cpu()
    return to_uint8(images) if encoding == "png" else images.to(torch.float16)


def label(teacher: Teacher, images: Tensor) -> Tensor:
    """The teacher's raw logits [N, K] of stored images (uint8 or float16), in float32, on the CPU.

    Raises:
        TeacherError: an answer is not finite.
    """
    device = teacher.normalise.mean.device
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        answers = [teacher(to_unit(part).to(device)).float().cpu() for part in images.split(_LABEL_BATCH)]
    logits = torch.cat(answers)
    if not bool(torch.isfinite(logits).all()):
        raise TeacherError(
            f"teacher {teacher.card.arch}: logits that are not finite for synthetic images; check its weights"
        )
    return logits


def _check(batch: Batch, plan: ShardPlan, maker: ShardMaker, teacher: Teacher) -> None:
    """Refuse what is not a batch of images and distributions."""
    images, targets = batch
    where = f"methods.{maker.method}: shard {plan.name}"
    card = teacher.card
    _check_tensor(where, "images", images, (plan.samples, card.channels, card.size, card.size))
    if float(images.min()) < 0 or float(images.max()) > 1:
        raise MethodError(f"{where}: images range over [{images.min():.4g}, {images.max():.4g}], expected [0, 1]")
    if targets is None:
        if maker.soft_targets:
            raise MethodError(f"{where}: no targets, though this method's are to be stored")
        return
    _check_tensor(where, "targets", targets, (plan.samples, len(card.classes)))
    if float(targets.min()) < 0 or bool(((targets.double().sum(dim=1) - 1).abs() > _SUM_TOLERANCE).any()):
        raise MethodError(f"{where}: targets are no distributions: expected rows of numbers >= 0 that sum to 1")


def _check_tensor(where: str, what: str, values: Tensor, expected: tuple[int, ...]) -> None:
    if tuple(values.shape) != expected or not values.is_floating_point():
        found = f"{values.dtype} {list(values.shape)}".removeprefix("torch.")
        raise MethodError(f"{where}: {what} are {found}, expected float32 {list(expected)}")
    if not bool(torch.isfinite(values).all()):
        raise MethodError(f"{where}: {what} hold values that are not finite; try a smaller learning rate")
