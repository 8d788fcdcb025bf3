"""Making shards: draw, check, quantise, ask the teacher once about what is stored, encode, commit."""

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from pipeline.core.errors import MethodError, ParamsError, TeacherError
from pipeline.core.files import crash_point, sha256_bytes
from pipeline.core.images import from_uint8, to_uint8
from pipeline.core.progress import track
from pipeline.optimise.source import draw
from pipeline.core.rng import generator
from pipeline.shards.encode import encode_shard
from pipeline.shards.executor import Executor, Serial
from pipeline.shards.plan import ShardPlan
from pipeline.shards.schema import Encoding
from pipeline.shards.work import ShardRecord, WorkDirectory
from pipeline.teacher.model import Teacher

if TYPE_CHECKING:
    from pipeline.methods import Batch, Source

__all__ = ["MadeShard", "ShardMaker", "Workshop", "label", "make_shard", "produce", "quantise"]

_LABEL_BATCH = 256  # images per question to the teacher; bounds memory, stays fixed since it can move a last digit
_PNG_CHANNELS = (1, 3)
_SUM_TOLERANCE = 1e-4  # of a target's sum, in float32


class Workshop(NamedTuple):
    """What a worker needs to make shards."""

    source: "Source"
    teacher: Teacher  # on the device it is to be asked on


class MadeShard(NamedTuple):
    """A shard in memory."""

    plan: ShardPlan
    content: bytes
    record: ShardRecord


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


def produce(
    work: WorkDirectory, plans: Sequence[ShardPlan], maker: ShardMaker, executor: Executor
) -> tuple[ShardRecord, ...]:
    """Make the shards that are missing from an entered work directory; each one counts as soon as it is done.

    No plans at all opens the workshop and leaves it: a scheduler lets one job do a long fit before it starts others.

    Returns:
        The records of all `plans`, in their order.

    Raises:
        MethodError: the method drew something that is not a batch of images.
        TeacherError: the teacher's answer is not finite.
        WorkError: the disk is full, or a worker process was killed.
    """
    missing = [plan for plan in plans if work.record(plan) is None]
    if len(missing) < len(plans):
        sys.stderr.write(f"{work.name}: {len(plans) - len(missing)} of {len(plans)} shards are there already\n")
    if not plans:
        list(Serial().map(maker, ()))
    elif missing:
        with closing(executor.map(maker, missing)) as shards:
            for shard in track(shards, work.name, total=len(missing), unit="shard"):
                work.commit(shard.plan, shard.content, shard.record)
    return tuple(record for plan in plans if (record := work.record(plan)) is not None)


def make_shard(workshop: Workshop, plan: ShardPlan, maker: ShardMaker) -> MadeShard:
    """Make one shard; a pure function of the workshop, (seed, method, split, index) and the encoding.

    Raises:
        ParamsError: png cannot hold the teacher's channels.
        MethodError: wrong shapes, values that are not finite, images outside [0, 1], targets that are no distributions.
        TeacherError: the teacher's answer is not finite.
    """
    start = time.perf_counter()
    channels = workshop.teacher.info.channels
    if maker.encoding == "png" and channels not in _PNG_CHANNELS:
        raise ParamsError(f"shards.encoding: 'png': a picture of {channels} channels does not fit; use npy")
    rng = generator(maker.seed, f"{maker.method}/{plan.split}", plan.index)
    batch = draw(workshop.source, plan.samples, rng, plan.number)
    _check(batch, plan, maker.method, workshop.teacher)
    crash_point("shard:drawn")

    images = quantise(batch.images, maker.encoding)
    logits = label(workshop.teacher, images)
    # What was steered nowhere is filed under the teacher's own first choice.
    targets = None if batch.targets is None else batch.targets.detach().float().cpu()
    cls = (logits if targets is None else targets).argmax(dim=1)
    stored_targets = targets if maker.soft_targets else None
    content = encode_shard(images, logits, stored_targets, cls, maker.encoding, plan.split, plan.index)

    histogram = torch.bincount(cls, minlength=logits.shape[1])
    record = ShardRecord(
        name=plan.name,
        samples=plan.samples,
        bytes=len(content),
        sha256=sha256_bytes(content),
        histogram=tuple(int(number) for number in histogram),
        agree=int((logits.argmax(dim=1) == cls).sum()),
        seconds=round(time.perf_counter() - start, 3),
        work="",
    )
    return MadeShard(plan, content, record)


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
    answers: list[Tensor] = []
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        for first in range(0, len(images), _LABEL_BATCH):
            part = images[first : first + _LABEL_BATCH]
            seen = from_uint8(part) if part.dtype == torch.uint8 else part.float()
            answers.append(teacher(seen.to(device)).float().cpu())
    logits = torch.cat(answers)
    if not bool(torch.isfinite(logits).all()):
        raise TeacherError(
            f"teacher {teacher.info.arch}: logits that are not finite for synthetic images; check its weights"
        )
    return logits


def _check(batch: "Batch", plan: ShardPlan, method: str, teacher: Teacher) -> None:
    """Refuse what is not a batch of images and distributions."""
    images, targets = batch
    where = f"methods.{method}: shard {plan.name}"
    info = teacher.info
    _shape(where, "images", images, (plan.samples, info.channels, info.size, info.size))
    if targets is not None:
        _shape(where, "targets", targets, (plan.samples, len(info.classes)))
    for what, values in (("images", images), ("targets", targets)):
        if values is not None and not bool(torch.isfinite(values).all()):
            raise MethodError(f"{where}: {what} hold values that are not finite; try a smaller learning rate")
    if float(images.min()) < 0 or float(images.max()) > 1:
        raise MethodError(f"{where}: images range over [{images.min():.4g}, {images.max():.4g}], expected [0, 1]")
    if targets is None:
        return
    if float(targets.min()) < 0 or bool(((targets.double().sum(dim=1) - 1).abs() > _SUM_TOLERANCE).any()):
        raise MethodError(f"{where}: targets are no distributions: expected rows of numbers >= 0 that sum to 1")


def _shape(where: str, what: str, values: Tensor, expected: tuple[int, ...]) -> None:
    if tuple(values.shape) != expected or not values.is_floating_point():
        found = f"{values.dtype} {list(values.shape)}".removeprefix("torch.")
        raise MethodError(f"{where}: {what} are {found}, expected float32 {list(expected)}")
