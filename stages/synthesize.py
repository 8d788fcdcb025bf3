"""Stage `synthesize`: one method's dataset, from the teacher alone, as shards in `data/synthetic/<method>`."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple, cast

from pydantic import Field

from pipeline import methods, nets
from pipeline.classifier import Teacher, TeacherCard
from pipeline.core.checkpoint import Checkpoint
from pipeline.core.code import SourceTree, work_fingerprint
from pipeline.core.device import Compute
from pipeline.core.errors import run_or_exit
from pipeline.core.params import Block, build
from pipeline.core.work import work_root
from pipeline.methods import BaseMethod, Fitted, Run
from pipeline.shards.executor import choose, fit_threads
from pipeline.shards.make import ShardMaker, Workshop, fit_stream
from pipeline.shards.manifest import Encoding
from pipeline.shards.produce import produce
from pipeline.shards.publish import describe, publish
from pipeline.shards.work import Attachments, ShardDirectory, plan, select, work_key
from stages import arguments
from stages.settings import DATA, PROVENANCE, TEACHER, Settings, architectures, terms, write_provenance

__all__ = ["MethodBlock", "ShardParams", "main", "open_workshop", "read_method", "synthesize"]

_ROOT = Path(__file__).resolve().parents[1]  # of the source tree
_LOCAL = {"root", "download"}  # where somebody keeps real data stays with them


class ShardParams(Block):
    """The `shards` block: how every dataset is stored."""

    size: Annotated[int, Field(gt=0)]  # images per shard
    encoding: Encoding
    holdout: Annotated[int, Field(ge=0)]  # images beside the training ones, that students are only measured on


class _Count(Block):
    count: Annotated[int, Field(gt=0)]  # training images; a multiple of shards.size


class MethodBlock(NamedTuple):
    """A validated `methods.<name>` block."""

    images: int  # training images to make
    method: BaseMethod


def read_method(settings: Settings, name: str) -> MethodBlock:
    """Validate one method's block; `count` is the dataset's and is taken out before the method is built.

    Raises:
        ParamsError: one line per wrong key.
    """
    model = methods.load(name)
    fields = settings.mapping(f"methods.{name}")
    counts = {key: fields.pop(key) for key in ("count",) if key in fields}
    if model.needs.real:
        fields["data"] = settings.slice("data")
    method = build(model, fields, f"methods.{name}")
    return MethodBlock(build(_Count, counts, f"methods.{name}").count, method)


def open_workshop(
    name: str,
    method: BaseMethod,
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
    teacher = Teacher.load(folder, TeacherCard, trust)
    compute.place(teacher)
    source = method.fit(Run(teacher, fit_stream(seed, name), checkpoint, compute))
    attachments.keep(source.attachments() if isinstance(source, Fitted) else (), name)
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
    method, shards = read_method(settings, name), settings.block(ShardParams, "shards")
    compute = settings.block(Compute, "compute")
    plans = plan(method.images, shards.size, shards.holdout, f"methods.{name}.count")
    teacher = Teacher.load(TEACHER, TeacherCard, settings.trust).card
    executor = choose(compute)
    tree = SourceTree(_ROOT, ("pipeline",))
    key = work_key(
        method=name,
        params=method.method.model_dump(mode="json"),
        seed=settings.seed,
        teacher=teacher.sha256,
        encoding=shards.encoding,
        size=shards.size,
        code=work_fingerprint(tree, _roots(tree, name, method, teacher.arch)),
        compute=compute,
    )
    with ShardDirectory(work_root(), name, key, part) as work:
        opening = partial(
            open_workshop,
            name,
            method.method,
            TEACHER,
            settings.trust,
            settings.seed,
            compute,
            work.checkpoint("fit"),
            work.attachments,
        )
        maker = ShardMaker(opening, settings.seed, name, shards.encoding, method.method.soft_targets)
        records = produce(work, plans if part is None else select(plans, part), maker, executor)
        if part is not None:
            return
        if work.attachments.entries() is None:  # the shards outlived them
            produce(work, (), maker, executor)
        manifest = describe(
            plans,
            records,
            maker,
            params=_recorded(method.method),
            data_free=not method.method.needs.real,
            steered=method.method.steered,
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
        threads=fit_threads(),
        device=compute.torch_device().type,
        precision=compute.precision,
    )


def _recorded(block: Block) -> dict[str, Any]:
    """A method's parameters as the manifest records them: all but the places on this machine."""
    fields = block.model_dump(mode="json")
    for name, value in fields.items():
        if isinstance(value, dict):
            fields[name] = {key: item for key, item in cast(dict[str, Any], value).items() if key not in _LOCAL}
    return fields


def _roots(tree: SourceTree, name: str, method: MethodBlock, teacher: str) -> set[str]:
    """The modules that a shard's bytes come from, with those they import: method, networks, terms, data, encoding."""
    block = method.method.model_dump()
    networks = map(nets.module_of, (teacher, *architectures(block)))
    data = {f"pipeline.real.{block['data'].get('source')}"} if method.method.needs.real else set[str]()
    return {"pipeline.shards.make", f"pipeline.methods.{name}", *networks, *terms(block), *data & tree.modules.keys()}


def main() -> None:
    """`python -m stages.synthesize METHOD [--shards a:b]`."""
    given = arguments("synthesize")
    synthesize(Settings.read(), given.method, given.shards)


if __name__ == "__main__":
    run_or_exit(main)
