"""A fit that leaves files, and runs that keep and publish them: what the tests of attachments have in common."""

import os
from functools import partial
from pathlib import Path

from producing import SHARD, Noise, key, teacher

from pipeline.methods import Attachment
from pipeline.shards.attachments import Attachments
from pipeline.shards.executor import Executor, Serial
from pipeline.shards.plan import plan
from pipeline.shards.produce import ShardMaker, Workshop, produce
from pipeline.shards.publish import describe, publish
from pipeline.shards.work import WorkDirectory

LEFT = (
    Attachment("proxy.safetensors", "proxy", {"arch": "resnet8"}, b"weights of a proxy"),
    Attachment("generator-02.safetensors", "generator", {"noise": 8, "widths": [4, 2], "epoch": 2}, b"second" * 50),
    Attachment("generator-01.safetensors", "generator", {"noise": 8, "widths": [4, 2], "epoch": 1}, b"first" * 50),
    Attachment("fit.csv", "history", {}, b"epoch,loss\n1,0.5\n"),
)
NAMES = ("fit.csv", "generator-01.safetensors", "generator-02.safetensors", "proxy.safetensors")


def workshop(attachments: Attachments, log: Path | None) -> Workshop:
    """As the stage opens it: what the fit leaves is stored unless it is there."""
    if attachments.entries() is None:
        attachments.store(LEFT, "noise")
        if log is not None:
            with log.open("a") as file:
                file.write("stored\n")
    return Workshop(Noise(), teacher())


def make(root: Path, out: Path, executor: Executor | None = None, log: Path | None = None, count: int = SHARD) -> None:
    """Make and publish a dataset with attachments."""
    plans = plan(count, SHARD, 0)
    with WorkDirectory(root, "noise", key()) as work:
        maker = ShardMaker(partial(workshop, work.attachments, log), 0, "noise", "png", soft_targets=True)
        records = produce(work, plans, maker, executor or Serial())
        if work.attachments.entries() is None:
            produce(work, (), maker, Serial())
        found = work.attachments.entries()
        assert found is not None
        manifest = describe(
            plans, records, maker, params={}, data_free=True, teacher=teacher().info, attachments=found
        )  # fmt: skip
        publish(work, manifest, out)


def make_with_fault(root: Path, out: Path, fault: str) -> None:
    """`make` in a process of its own, which ends at a crash point."""
    os.environ["AFTERIMAGE_FAULT"] = fault
    make(root, out)
