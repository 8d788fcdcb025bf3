"""A small dataset made by a method that takes no time: what the producing tests have in common.

Also a command, for tests that kill whole processes: python producing.py ROOT OUT COUNT WORKERS [PAUSE]
"""

import os
import sys
import time
from functools import partial
from pathlib import Path

import torch
from torch import nn

from pipeline.core.device import Compute
from pipeline.core.errors import run_or_exit
from pipeline.methods import Batch
from pipeline.shards.executor import Executor, Processes, Serial
from pipeline.shards.plan import plan
from pipeline.shards.produce import ShardMaker, Workshop, produce
from pipeline.shards.publish import describe, publish
from pipeline.shards.work import ShardRecord, WorkDirectory, work_key
from pipeline.teacher.model import Teacher, TeacherInfo

CLASSES, CHANNELS, SIZE, SHARD = 4, 1, 6, 5
NAMES = ("ant", "bee", "cat", "dog")
SHA = "5" * 64


def teacher() -> Teacher:
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


class Noise:
    """Images of noise, a random target distribution; each draw leaves its number in a log."""

    def __init__(self, pause: float = 0.0, log: Path | None = None) -> None:
        self.pause, self.log = pause, log

    def draw(self, count: int, rng: torch.Generator, index: int) -> Batch:
        time.sleep(self.pause)
        if self.log is not None:
            with self.log.open("a") as file:
                file.write(f"{index}\n")
        images = torch.rand(count, CHANNELS, SIZE, SIZE, generator=rng)
        return Batch(images, torch.rand(count, CLASSES, generator=rng).softmax(dim=1))


def workshop(pause: float = 0.0, log: Path | None = None) -> Workshop:
    return Workshop(Noise(pause, log), teacher())


def key(**changes: object) -> dict[str, object]:
    compute = Compute(device="cpu", precision="float32", channels_last=False, compile="never")
    usual = work_key(
        method="noise", params={"level": 1.0, "steps": [1, 2]}, seed=0, teacher=SHA, encoding="png", size=SHARD,
        code="c0de", compute=compute,
    )  # fmt: skip
    return usual | changes


def make(
    root: Path,
    out: Path | None,
    count: int = 4 * SHARD,
    holdout: int = SHARD,
    executor: Executor | None = None,
    seed: int = 0,
    encoding: str = "png",
    pause: float = 0.0,
    log: Path | None = None,
) -> tuple[ShardRecord, ...]:
    """What a stage does: plan, enter the work directory, produce, publish."""
    plans = plan(count, SHARD, holdout)
    maker = ShardMaker(partial(workshop, pause, log), seed, "noise", encoding, soft_targets=True)
    with WorkDirectory(root, "noise", key(seed=seed, encoding=encoding)) as work:
        records = produce(work, plans, maker, executor or Serial())
        if out is not None:
            manifest = describe(
                plans, records, maker, params={"level": 1.0, "steps": [1, 2]}, data_free=True, teacher=teacher().info,
                attachments=work.attachments.entries() or (),
            )  # fmt: skip
            publish(work, manifest, out)
    return records


def make_with_fault(root: Path, out: Path, count: int, fault: str, pause: float) -> None:
    """`make` in a process of its own, which a test may kill or which ends at a crash point."""
    if fault:
        os.environ["AFTERIMAGE_FAULT"] = fault
    make(root, out, count=count, pause=pause)


def tree(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def main() -> None:
    root, out, count, workers, *pause = sys.argv[1:]
    executor = Processes(int(workers)) if int(workers) > 1 else Serial()
    make(Path(root), Path(out), int(count), executor=executor, pause=float(*pause or [0.0]))


if __name__ == "__main__":
    run_or_exit(main)
