"""Whether blocks that are right each for itself agree with each other."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, cast

from torch import nn

from pipeline import datasets, methods, nets
from pipeline.core.errors import ParamsError, PipelineError
from pipeline.core.files import sha256_file
from pipeline.datasets import DataBlock, NoData
from pipeline.distill import few_shot_of
from pipeline.methods import Method, needing_batch_norm
from pipeline.metrics import PROXY
from pipeline.teacher.blocks import CheckpointFile, Python, TeacherBlock, Timm, Torchvision, Train
from stages.method import ShardParams
from stages.settings import Matrix, Settings

__all__ = [
    "Images",
    "images_of",
    "missing_files",
    "network",
    "network_of",
    "of_batch_norm",
    "of_matrix",
    "of_shards",
    "of_teacher",
]

_RGB = 3
_PNG_CHANNELS = (1, _RGB)
_USUAL = 224  # px, what most published networks take: enough to see whether one can be built


class Images(NamedTuple):
    """What every network of the run takes and gives, as far as params.yaml tells."""

    classes: int
    channels: int
    size: int


def images_of(data: DataBlock, teacher: TeacherBlock) -> Images | None:
    """The shape of the images; None where only the weights of a published network will tell.

    The number of classes is 10 where the data must be read to know it: enough to see whether a network can be built.
    """
    match teacher:
        case Train():
            return None if isinstance(data, NoData) else Images(10, data.channels, data.size)
        case CheckpointFile() | Python():
            return Images(_count(teacher.classes), teacher.channels, teacher.size)
        case Torchvision() | Timm():
            return None if teacher.size is None else Images(_count(teacher.classes), 3, teacher.size)


def of_matrix(matrix: Matrix, settings: Settings) -> Iterator[str]:
    """Names that do not exist, stand twice, or cannot be file names; references that are none."""
    for key, block in (("methods", "methods"), ("students", "students")):
        there = settings.params.get(block)
        known = tuple(map(str, cast(dict[object, object], there))) if isinstance(there, dict) else ()
        names: tuple[str, ...] = getattr(matrix, key)
        for name in names:
            if name not in known:
                yield f"matrix.{key}: {name!r}: no such block; {block} has {', '.join(known) or 'none'}"
        yield from _twice(f"matrix.{key}", names)
        if not names:
            yield f"matrix.{key}: []: nothing to report; name at least one"
    yield from _twice("matrix.seeds", matrix.seeds)
    if not matrix.seeds:
        yield "matrix.seeds: []: nothing to report; name at least one"
    yield from _references(matrix)
    yield from _few_shot(matrix, settings)
    yield from _proxies(matrix, settings)


def of_teacher(data: DataBlock, teacher: TeacherBlock) -> Iterator[str]:
    """A teacher whose input is not what the data block makes, or that cannot be trained here."""
    if isinstance(data, NoData):
        if isinstance(teacher, Train):
            yield "teacher.source: 'train': needs real data, but data.source is none; use another source"
        elif isinstance(teacher, CheckpointFile | Python) and teacher.classes is None:
            yield "teacher.classes: null: no real data names them; give their names or their number"
        return
    for key in ("channels", "size"):
        found, wanted = getattr(teacher, key, None), getattr(data, key)
        if found is not None and found != wanted:
            yield f"teacher.{key}: {found}: data.{key} is {wanted}; make them equal, or set data.source: none"
    if isinstance(teacher, Torchvision | Timm) and data.channels != _RGB:
        yield f"data.channels: {data.channels}: networks of {teacher.source} take {_RGB}"
    if isinstance(teacher, Train):
        yield from _one_per_channel(teacher, data.channels)


def of_shards(data: DataBlock, images: Images | None, shards: ShardParams, matrix: Matrix) -> Iterator[str]:
    """Images that cannot be stored as asked, methods without their data, students with nothing to be measured on."""
    if images is not None and shards.encoding == "png" and images.channels not in _PNG_CHANNELS:
        yield f"shards.encoding: 'png': cannot hold {images.channels} channels; use npy"
    if not isinstance(data, NoData):
        return
    if shards.holdout == 0:
        yield "shards.holdout: 0: without real data (data.source: none) students are measured on held-out shards"
    for name in matrix.methods:
        if name in methods.names() and "data" in cast(Method, methods.load(name)).reads:
            yield f"matrix.methods: {name!r}: needs real data, but data.source is none; take it out"


def network(arch: str, images: Images | None, key: str) -> nn.Module | None:
    """An architecture with fresh weights; None where only a run will tell what it is or what it takes.

    Raises:
        ParamsError: it does not exist, or cannot take these images.
    """
    try:
        nets.module_of(arch)
        if images is None or arch.startswith("python:"):  # a user's file runs only in the teacher stage
            return None
        return nets.build(arch, images.classes, images.channels, images.size)
    except PipelineError as error:
        raise ParamsError(f"{key}: {error}") from error


def network_of(teacher: TeacherBlock, images: Images | None) -> nn.Module | None:
    """The teacher's architecture as `network` gives it; nothing is downloaded, and no code of the user's runs.

    Raises:
        ParamsError: as in `network`.
    """
    match teacher:
        case Train() | CheckpointFile():
            return network(teacher.arch, images, "teacher.arch")
        case Torchvision():
            return network(_published(teacher), images or Images(10, _RGB, _USUAL), "teacher.name")
        case Timm() | Python():
            return None


def of_batch_norm(matrix: Matrix, teacher: TeacherBlock, net: nn.Module) -> Iterator[str]:
    """Methods that match BatchNorm statistics, though the teacher's network keeps none."""
    if nets.has_batch_norm(net) or isinstance(teacher, Timm | Python):
        return
    arch = _published(teacher) if isinstance(teacher, Torchvision) else teacher.arch
    for name in matrix.methods:
        if name in methods.names() and cast(Method, methods.load(name)).batch_norm:
            yield f"matrix.methods: {name!r}: {needing_batch_norm(f'teacher {arch}')}"


def missing_files(data: DataBlock, teacher: TeacherBlock, trust: tuple[str, ...]) -> Iterator[str]:
    """Files that a stage will look for and not find."""
    if isinstance(data, datasets.Folder) and not Path(data.root).expanduser().is_dir():
        yield f"data.root: {data.root}: no such folder"
    if isinstance(data, datasets.Torchvision) and not data.download and not Path(data.root).expanduser().is_dir():
        yield f"data.root: {data.root}: no such folder; put the files there, or set data.download: true"
    if isinstance(teacher, CheckpointFile):
        yield from _missing("teacher.path", teacher.path)
    if isinstance(teacher, Python):
        yield from _missing("teacher.path", teacher.path)
        yield from _missing("teacher.checkpoint", teacher.checkpoint)
        path = Path(teacher.path).expanduser()
        if path.is_file() and (digest := sha256_file(path)) not in trust:
            yield f"teacher.path: {teacher.path}: read it, then add its sha256 to `trust` so that it may run: {digest}"


def _published(teacher: Torchvision) -> str:
    return f"{teacher.source}:{teacher.name}"


def _references(matrix: Matrix) -> Iterator[str]:
    for name in matrix.references:
        if name not in matrix.methods:
            yield f"matrix.references: {name!r}: expected one of matrix.methods ({', '.join(matrix.methods)})"
        elif name in methods.names() and cast(Method, methods.load(name)).data_free:
            yield f"matrix.references: {name!r}: has no true labels; name methods that read real data"
    yield from _twice("matrix.references", matrix.references)


def _proxies(matrix: Matrix, settings: Settings) -> Iterator[str]:
    for name in matrix.proxies:
        if name not in matrix.methods:
            yield f"matrix.proxies: {name!r}: expected one of matrix.methods ({', '.join(matrix.methods)})"
            continue
        try:
            settings.slice(f"methods.{name}.proxy.arch")
        except ParamsError:
            yield f"matrix.proxies: {name!r}: trains no proxy student; name methods whose block has `proxy.arch`"
    if PROXY in matrix.students:
        yield f"matrix.students: {PROXY!r}: the name of every proxy student; rename this student"
    yield from _twice("matrix.proxies", matrix.proxies)


def _few_shot(matrix: Matrix, settings: Settings) -> Iterator[str]:
    for name in matrix.few_shot:
        if name not in matrix.methods:
            yield f"matrix.few_shot: {name!r}: expected one of matrix.methods ({', '.join(matrix.methods)})"
    yield from _twice("matrix.few_shot", matrix.few_shot)
    if not matrix.few_shot:
        return
    try:
        few, _ = few_shot_of(settings.mapping("few_shot"))
        count = settings.slice(f"methods.{few.dataset}.count") if few.dataset in matrix.methods else None
    except ParamsError:  # reported by those who look at these blocks
        return
    if few.dataset not in matrix.methods:
        yield f"few_shot.dataset: {few.dataset!r}: expected one of matrix.methods ({', '.join(matrix.methods)})"
    elif few.dataset in methods.names() and cast(Method, methods.load(few.dataset)).data_free:
        yield f"few_shot.dataset: {few.dataset!r}: has no real images; name a method that reads real data"
    elif isinstance(count, int) and count < few.per_class:
        yield f"few_shot.per_class: {few.per_class}: methods.{few.dataset}.count is {count}; lower it, or raise that"


def _one_per_channel(teacher: Train, channels: int) -> Iterator[str]:
    for key in ("mean", "std"):
        values: tuple[float, ...] = getattr(teacher, key)
        if len(values) != channels:
            yield f"teacher.{key}: {list(values)}: data.channels is {channels}; give one number per channel"


def _twice(key: str, values: tuple[object, ...]) -> Iterator[str]:
    yield from (f"{key}: {value!r}: stands twice" for value in dict.fromkeys(values) if values.count(value) > 1)


def _missing(key: str, file: str | None) -> Iterator[str]:
    if file is not None and not Path(file).expanduser().is_file():
        yield f"{key}: {file}: no such file"


def _count(classes: tuple[str, ...] | int | None) -> int:
    if classes is None:
        return 10
    return classes if isinstance(classes, int) else len(classes)
