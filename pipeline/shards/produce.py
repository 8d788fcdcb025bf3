"""Making the shards that are missing from a work directory."""

import sys
from collections.abc import Sequence
from contextlib import closing

from ..core.files import sha256_bytes
from ..core.progress import track
from .executor import Executor
from .make import MadeShard, ShardMaker, ShardPlan
from .make import Workshop as Workshop  # noqa: PLC0414 # shim
from .make import label as label  # noqa: PLC0414 # shim
from .make import make_shard as make_shard  # noqa: PLC0414 # shim
from .make import quantise as quantise  # noqa: PLC0414 # shim
from .work import ShardDirectory, ShardRecord

__all__ = ["produce"]


def produce(
    work: ShardDirectory, plans: Sequence[ShardPlan], maker: ShardMaker, executor: Executor
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
        sys.stderr.write(f"{work.dataset}: {len(plans) - len(missing)} of {len(plans)} shards are there already\n")
    if missing or not plans:
        with closing(executor.map(maker, missing)) as shards:
            for shard in track(shards, work.dataset, total=len(missing), unit="shard"):
                work.commit(shard.plan, shard.content, _record(shard))
    return tuple(record for plan in plans if (record := work.record(plan)) is not None)


def _record(shard: MadeShard) -> ShardRecord:
    return ShardRecord(
        name=shard.plan.name,
        samples=shard.plan.samples,
        bytes=len(shard.content),
        sha256=sha256_bytes(shard.content),
        histogram=shard.histogram,
        agree=shard.agree,
        seconds=shard.seconds,
        work="",  # filled in where it is stored
    )
