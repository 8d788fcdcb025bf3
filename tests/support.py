"""What many tests need: a small machine, small networks, small blocks."""

import os
import time
from functools import partial
from pathlib import Path

import torch
from torch import nn

from pipeline.core.device import Compute
from pipeline.methods import Attachment, Batch
from pipeline.shards.executor import Executor
from pipeline.shards.make import ShardMaker, Workshop
from pipeline.shards.produce import produce
from pipeline.shards.publish import describe, publish
from pipeline.shards.work import Attachments, ShardDirectory, ShardRecord, plan, work_key
from pipeline.teacher.model import Teacher, TeacherInfo

ROOT = Path(__file__).resolve().parent.parent
CPU = Compute(device="cpu", precision="float32", channels_last=False, compile="never")


def tree(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# Producing: a small dataset made by a method that takes no time.

CLASSES, CHANNELS, SIZE, SHARD = 4, 1, 6, 5
NAMES = ("ant", "bee", "cat", "dog")
SHA = "5" * 64
PARAMS = {"level": 1.0, "steps": [1, 2]}
LEFT = (  # by a fit
    Attachment("proxy.safetensors", "proxy", {"arch": "resnet8"}, b"weights of a proxy"),
    Attachment("generator-02.safetensors", "generator", {"noise": 8, "widths": [4, 2], "epoch": 2}, b"second" * 50),
    Attachment("generator-01.safetensors", "generator", {"noise": 8, "widths": [4, 2], "epoch": 1}, b"first" * 50),
    Attachment("fit.csv", "history", {}, b"epoch,loss\n1,0.5\n"),
)


def linear_teacher() -> Teacher:
    rng = torch.Generator().manual_seed(0)
    linear = nn.Linear(CHANNELS * SIZE * SIZE, CLASSES)
    with torch.no_grad():
        linear.weight.copy_(torch.randn(linear.weight.shape, generator=rng))
        linear.bias.zero_()
    info = TeacherInfo(
        arch="linear", classes=NAMES, channels=CHANNELS, size=SIZE, mean=(0.5,), std=(0.25,),
        batch_norm=False, sha256=SHA, accuracy=None, source="a test",
    )  # fmt: skip
    return Teacher(nn.Sequential(nn.Flatten(), linear), info)


class NoiseSource:
    """Images of noise, a random target distribution; each draw leaves its number in a log."""

    def __init__(self, pause: float = 0.0, log: Path | None = None) -> None:
        self.pause, self.log = pause, log

    def draw(self, count: int, rng: torch.Generator, index: int) -> Batch:
        time.sleep(self.pause)
        note(self.log, str(index))
        images = torch.rand(count, CHANNELS, SIZE, SIZE, generator=rng)
        return Batch(images, torch.rand(count, CLASSES, generator=rng).softmax(dim=1))


class FixedSource:
    """Hands out what it was given."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def draw(self, count: int, rng: torch.Generator, index: int) -> Batch:
        return self.batch


class DyingSource:
    def draw(self, count: int, rng: torch.Generator, index: int) -> Batch:
        os.kill(os.getpid(), 9)
        raise AssertionError


def note(log: Path | None, line: str) -> None:
    if log is not None:
        with log.open("a") as file:
            file.write(f"{line}\n")


def noise_workshop(pause: float = 0.0, log: Path | None = None) -> Workshop:
    return Workshop(NoiseSource(pause, log), linear_teacher())


def dying_workshop() -> Workshop:
    return Workshop(DyingSource(), linear_teacher())


def failing_workshop() -> Workshop:
    images = torch.full((SHARD, CHANNELS, SIZE, SIZE), torch.nan)
    return Workshop(FixedSource(Batch(images, torch.full((SHARD, CLASSES), 1 / CLASSES))), linear_teacher())


def attaching_workshop(attachments: Attachments, log: Path | None) -> Workshop:
    """As the stage opens it: what the fit leaves is stored unless it is there."""
    if attachments.entries() is None:
        attachments.store(LEFT, "noise")
        note(log, "stored")
    return noise_workshop()


def noise_key(**changes: object) -> dict[str, object]:
    usual = work_key(
        method="noise", params=PARAMS, seed=0, teacher=SHA, encoding="png", size=SHARD, code="c0de", compute=CPU
    )  # fmt: skip
    return usual | changes


def make_noise(
    root: Path,
    out: Path | None,
    count: int = 4 * SHARD,
    holdout: int = SHARD,
    executor: Executor | None = None,
    seed: int = 0,
    encoding: str = "png",
    pause: float = 0.0,
    log: Path | None = None,
    attach: bool = False,
) -> tuple[ShardRecord, ...]:
    """What a stage does: plan, enter the work directory, produce, publish."""
    plans, executor = plan(count, SHARD, holdout), executor or Executor()
    with ShardDirectory(root, "noise", noise_key(seed=seed, encoding=encoding)) as work:
        opening = partial(attaching_workshop, work.attachments, log) if attach else partial(noise_workshop, pause, log)
        maker = ShardMaker(opening, seed, "noise", encoding, soft_targets=True)
        records = produce(work, plans, maker, executor)
        if attach and work.attachments.entries() is None:
            produce(work, (), maker, executor)
        if out is not None:
            found = work.attachments.entries() or ()
            manifest = describe(
                plans, records, maker, params=PARAMS, data_free=True, teacher=linear_teacher().info, attachments=found
            )  # fmt: skip
            publish(work, manifest, out)
    return records


def make_noise_with_fault(root: Path, out: Path, fault: str, count: int, pause: float, attach: bool = False) -> None:
    """`make_noise` in a process of its own, which a test may kill or which ends at a crash point."""
    if fault:
        os.environ["PHOTOGRAM_FAULT"] = fault
    make_noise(root, out, count=count, pause=pause, attach=attach)
