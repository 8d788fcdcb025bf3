"""Stage `synthesize`: one method's dataset, from the teacher alone, as shards in `data/synthetic/<method>`."""

import argparse
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

from pipeline import nets
from pipeline.core.checkpoint import Checkpoint
from pipeline.core.code import SourceTree, work_fingerprint
from pipeline.core.device import Compute
from pipeline.core.errors import run_or_exit
from pipeline.core.params import build
from pipeline.core.work import work_root
from pipeline.methods import Fitted, Method
from pipeline.shards.executor import choose
from pipeline.shards.make import ShardMaker, Workshop, fit_stream
from pipeline.shards.produce import produce
from pipeline.shards.publish import describe, publish
from pipeline.shards.work import Attachments, ShardDirectory, plan, select, work_key
from pipeline.teacher.model import Teacher, TeacherInfo
from stages.method import MethodBlock, ShardParams, read_method, recorded
from stages.provenance import PROVENANCE, write_provenance
from stages.settings import DATA, Settings

__all__ = ["main", "open_workshop", "synthesize"]

_TEACHER = DATA / "teacher"
_ROOT = Path(__file__).resolve().parents[1]  # of the source tree


def open_workshop(
    name: str,
    method: Method,
    folder: Path,
    trust: tuple[str, ...],
    seed: int,
    compute: Compute,
    checkpoint: Checkpoint,
    attachments: Attachments,
) -> Workshop:
    """Load the teacher, fit the method and keep what it leaves; called once in each process that makes shards.

    Args:
        name: the method's.
        method: its validated block.
        folder: the teacher's.
        trust: sha256 of user Python files whose code may run.
        seed: of the run.
        compute: where and how to run.
        checkpoint: where a long fit keeps its state; a second process finds it finished.
        attachments: where what the fit leaves is kept; a second process finds it there.
    """
    teacher = Teacher.load(folder, trust)
    compute.place(teacher)
    source = method.fit(teacher, fit_stream(seed, name), checkpoint, compute)
    if isinstance(source, Fitted) and attachments.entries() is None:
        attachments.store(source.attachments(), name)
    return Workshop(source, teacher)


def synthesize(settings: Settings, name: str, part: str | None) -> None:
    """Make one method's dataset, or some of its shards.

    Args:
        settings: the parameters.
        name: the method's.
        part: shards ``a:b`` to leave in the work directory; None to make what is missing and publish the dataset.

    Raises:
        PipelineError: parameters that are wrong, a teacher that does not load, a method that fails, a full disk.
    """
    method, shards = read_method(settings, name), build(ShardParams, settings.slice("shards"), "shards")
    plans = plan(method.images, shards.size, shards.holdout, f"methods.{name}.count")
    teacher = Teacher.load(_TEACHER, settings.trust).info
    executor = choose(settings.compute)
    with ShardDirectory(work_root(), name, _key(settings, name, method, shards, teacher), part) as work:
        opening = partial(
            open_workshop,
            name,
            method.method,
            _TEACHER,
            settings.trust,
            settings.seed,
            settings.compute,
            work.checkpoint("fit"),
            work.attachments,
        )
        maker = ShardMaker(opening, settings.seed, name, shards.encoding, method.method.soft_targets)
        records = produce(work, plans if part is None else select(plans, part), maker, executor)
        if part is not None:
            return
        if method.method.attaches and work.attachments.entries() is None:  # the shards outlived them
            produce(work, (), maker, executor)
        manifest = describe(
            plans,
            records,
            maker,
            params=recorded(method.block),
            data_free=method.method.data_free,
            teacher=teacher,
            attachments=work.attachments.entries() or (),
        )
        publish(work, manifest, DATA / "synthetic" / name)
        fitted = work.checkpoint("fit").seconds()
    write_provenance(
        PROVENANCE / "synthetic" / f"{name}.json",
        seconds=fitted + sum(record.seconds for record in records),
        images=sum(record.samples for record in records),
        workers=executor.workers,
        compute=settings.compute,
    )


def _key(
    settings: Settings, name: str, method: MethodBlock, shards: ShardParams, teacher: TeacherInfo
) -> dict[str, Any]:
    return work_key(
        method=name,
        params=method.block.model_dump(mode="json"),
        seed=settings.seed,
        teacher=teacher.sha256,
        encoding=shards.encoding,
        size=shards.size,
        code=work_fingerprint(SourceTree(_ROOT, ("pipeline",)), _roots(name, method, teacher)),
        compute=settings.compute,
    )


def _roots(name: str, method: MethodBlock, teacher: TeacherInfo) -> set[str]:
    """The modules that a shard's bytes come from, with those they import: the method, every network, the encoding."""
    return {
        "pipeline.shards.make",
        f"pipeline.methods.{name}",
        *map(nets.module_of, (teacher.arch, *_architectures(method.block.model_dump()))),
    }


def _architectures(block: dict[str, Any]) -> Iterator[str]:
    """Every architecture that a block names, at any depth."""
    for key, value in block.items():
        if key == "arch":
            yield value
        elif isinstance(value, dict):
            yield from _architectures(cast(dict[str, Any], value))


def main() -> None:
    """`python -m stages.synthesize METHOD [--shards a:b]`."""
    parser = argparse.ArgumentParser(prog="python -m stages.synthesize", description=__doc__)
    parser.add_argument("method", help="a name under `methods` in params.yaml")
    parser.add_argument(
        "--shards",
        metavar="a:b",
        help="make only these shards, counted from 0, training shards first, and leave them in the work directory: "
        "any scheduler can spread them over machines that share it; run without --shards afterwards to publish",
    )
    arguments = parser.parse_args()
    synthesize(Settings.read(), arguments.method, arguments.shards)


if __name__ == "__main__":
    run_or_exit(main)
