"""Whether blocks that are right each for itself agree with each other."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from pipeline import methods, nets
from pipeline.classifier import Card
from pipeline.core.errors import ParamsError, PipelineError
from pipeline.core.files import sha256_file
from pipeline.core.params import build
from pipeline.core.rng import stream
from pipeline.distill import DistillParams, few_shot_of
from pipeline.grid import PROXY, Matrix
from pipeline.losses import Loss
from pipeline.methods import needing_batch_norm
from pipeline.nets.probe import needs_batches, points
from pipeline.real import DataBlock, NoData, folder, torchvision
from pipeline.shards.manifest import LIMITS, fits
from pipeline.sources import CheckpointFile, Python, TeacherBlock, Timm, Torchvision, Train
from stages.settings import Settings, architectures
from stages.synthesize import MethodBlock, ShardParams

__all__ = [
    "Images",
    "few_images",
    "images_of",
    "least_classes",
    "missing_files",
    "network",
    "network_of",
    "of_classes",
    "of_data",
    "of_matrix",
    "of_method",
    "of_needs",
    "of_numbers",
    "of_real",
    "of_teacher",
    "require_room",
    "require_trainable",
    "untrusted",
]

_RGB = 3
_USUAL = 224  # px, what most published networks take: enough to see whether one can be built
_ENOUGH = 512  # px
_WHOLE, _LARGE = 2**31 - 1, 3e38  # what fits into an index of the usual size, and into a float32
_PARAMETERS, _LAYERS = 1 << 30, 5_000  # of a network of ours: more cannot be stored, or read back
_PUBLISHED = 1 << 28  # parameters of a published network; a larger one is not built here, which takes its memory
_KNOWN = {  # training images and classes
    "digits": (1437, 10),
    "MNIST": (60_000, 10),
    "FashionMNIST": (60_000, 10),
    "KMNIST": (60_000, 10),
    "CIFAR10": (50_000, 10),
    "CIFAR100": (50_000, 100),
}
_SOME = 10  # classes, where it takes the data or the weights to count them: enough to see whether a net can be built


class Images(NamedTuple):
    """What every network of the run takes and gives, as far as params.yaml tells."""

    classes: int
    channels: int
    size: int


def images_of(data: DataBlock | NoData, teacher: TeacherBlock) -> Images | None:
    """The shape of the images; None where only the weights of a published network will tell.

    Where the data must be read to count the classes, their number is a guess: enough to see whether a net can be built.
    """
    match teacher:
        case Train():
            return None if isinstance(data, NoData) else Images(_classes(data) or _SOME, data.channels, data.size)
        case CheckpointFile() | Python():
            return Images(_count(teacher.classes), teacher.channels, teacher.size)
        case Torchvision() | Timm():
            return None if teacher.size is None else Images(_count(teacher.classes), 3, teacher.size)


def least_classes(data: DataBlock | NoData, teacher: TeacherBlock) -> int:
    """How many classes there are, or 2, which is the least, where params.yaml does not tell."""
    given = None if isinstance(teacher, Train) else teacher.classes
    if given is not None:
        return given if isinstance(given, int) else len(given)
    return 2 if isinstance(data, NoData) else _classes(data) or 2


def of_numbers(value: object, key: str = "") -> Iterator[str]:
    """Numbers that no key can mean: they would be found where they overflow, after hours."""
    if isinstance(value, dict):
        for name, item in cast(dict[str, object], value).items():
            yield from of_numbers(item, f"{key}.{name}" if key else name)
    elif isinstance(value, list):
        for index, item in enumerate(cast(list[object], value)):
            yield from of_numbers(item, f"{key}.{index}")
    elif isinstance(value, int) and abs(value) > _WHOLE:
        yield f"{key}: {_short(value)}: expected a whole number of at most {_WHOLE}"
    elif isinstance(value, float) and not abs(value) <= _LARGE:
        yield f"{key}: {value}: expected a number that a float32 can hold"


def of_classes(data: DataBlock | NoData, teacher: TeacherBlock) -> Iterator[str]:
    """Class names that neither the teacher's card nor a dataset's manifest can hold."""
    if isinstance(data, folder.Data):
        for split in ("train", "test"):
            yield from _unlike_names(_folders(data, split), f"data.root: {Path(data.root).expanduser() / split}")
    classes = None if isinstance(teacher, Train) else teacher.classes
    if isinstance(classes, int) and classes > LIMITS.classes:
        yield f"teacher.classes: {classes}: expected at most {LIMITS.classes}"
    elif isinstance(classes, tuple):
        yield from _unlike_names(list(classes), "teacher")


def _classes(data: DataBlock) -> int | None:
    """How many classes there are; None where the data must be read to count them."""
    if isinstance(data, folder.Data):
        return len(_folders(data, "train")) or None
    return _KNOWN[_name(data)][1] if _name(data) in _KNOWN else None


def _folders(data: folder.Data, split: str) -> list[str]:
    """The names of a split's classes."""
    return sorted(path.name for path in (Path(data.root).expanduser() / split).glob("[!.]*") if path.is_dir())


def _unlike_names(names: list[str], key: str) -> Iterator[str]:
    """What a card says to these class names."""
    fields = {"arch": "any", "channels": 1, "size": 1, "mean": [0], "std": [1], "sha256": ""}
    try:
        if names:
            build(Card, {**fields, "classes": names}, key)
    except ParamsError as error:
        lines = str(error).splitlines()  # a name that is refused is missing from the number, too
        yield from [line for line in lines if ".classes." in line] or lines


def of_matrix(matrix: Matrix, settings: Settings, classes: int) -> Iterator[str]:
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
    yield from _few_shot(matrix, settings, classes)
    yield from _proxies(matrix, settings)


def few_images(matrix: Matrix, settings: Settings, classes: int) -> Iterator[str]:
    """Real images that are drawn at random, so that a class may have fewer than a last step on them takes."""
    try:
        few, _ = few_shot_of(settings.mapping("few_shot"))
        count = settings.slice(f"methods.{few.dataset}.count") if matrix.few_shot else None
    except ParamsError:  # reported by those who look at these blocks
        return
    if isinstance(count, int) and few.per_class <= count / classes < 2 * few.per_class + 10:
        yield (
            f"few_shot.per_class: {few.per_class}: methods.{few.dataset}.count ({count}) gives each of {classes} "
            f"classes about {count / classes:.0f} images; a class that gets fewer than {few.per_class} stops the run"
        )


def of_teacher(data: DataBlock | NoData, teacher: TeacherBlock, net: nn.Module | None) -> Iterator[str]:
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
        yield from _one_image(teacher, net, Images(_SOME, data.channels, data.size))


def of_data(data: DataBlock | NoData, shards: ShardParams, matrix: Matrix) -> Iterator[str]:
    """Methods without their data, students with nothing to be measured on."""
    if not isinstance(data, NoData):
        return
    if shards.holdout == 0:
        yield "shards.holdout: 0: without real data (data.source: none) students are measured on held-out shards"
    for name in matrix.methods:
        if _reads_data(name):
            yield f"matrix.methods: {name!r}: needs real data, but data.source is none; take it out"


def of_real(data: DataBlock | NoData, shards: ShardParams, made: dict[str, MethodBlock]) -> Iterator[str]:
    """More real images than there are, as far as that is known without reading them."""
    there, _ = _KNOWN.get(_name(data), (None, 0))
    for name, method in made.items():
        if _reads_data(name) and there is not None and method.images + shards.holdout > there:
            yield (
                f"methods.{name}.count: {method.images}: with shards.holdout ({shards.holdout}) more than the {there} "
                "real training images; lower one of them"
            )


def of_method(name: str, method: MethodBlock, images: Images | None) -> Iterator[str]:
    """A method that these images or its own proxy make impossible."""
    problems: list[str] = []
    for arch in architectures(method.method.model_dump()):
        try:
            network(arch, images, f"methods.{name}.proxy.arch")
        except ParamsError as error:
            problems.append(str(error))
    if images is not None and not problems:
        problems += method.method.check(images.channels, images.size, images.classes)
    yield from problems


def require_room(images: Images, shards: ShardParams, *, soft_targets: bool) -> None:
    """Whether readers take shards of such images.

    Raises:
        ParamsError: they are over their limits.
    """
    refused = fits(shards.size, images.channels, images.size, images.classes, shards.encoding, soft_targets)
    if refused is not None:
        raise ParamsError(f"shards: {refused}")


def require_trainable(
    arch: str, params: DistillParams, images: Images | None, teacher: TeacherBlock | None, key: str
) -> None:
    """Whether a student's architecture, batch and terms go together, as far as params.yaml tells.

    Args:
        arch: the student's.
        params: its training's.
        images: of the run.
        teacher: which, where its block is right.
        key: the student's full key, for messages.

    Raises:
        ParamsError: the architecture does not exist or fit, a batch is too small, a term names blocks that are not
            there.
    """
    net = network(arch, images, f"{key}.arch")
    if net is None or images is None:
        return
    if params.batch == 1 and _needs_two(net, images):
        raise ParamsError(f"{key}.batch: 1: BatchNorm in {arch} needs 2 images or more")
    if params.terms.looks_inside and teacher is not None and network_of(teacher, images) is not None:
        shape = (images.channels, images.size, images.size)
        theirs = _published(teacher) if isinstance(teacher, Torchvision) else cast(Train, teacher).arch
        student, net = (nets.build(each, images.classes, images.channels, images.size) for each in (arch, theirs))
        try:
            Loss(params.loss, params.terms, student, net, shape, stream(0, "check"))
        except PipelineError as error:
            raise ParamsError(f"{key}: a term between {theirs} and {arch}: {error}") from error


def network(arch: str, images: Images | None, key: str) -> nn.Module | None:
    """An architecture without weights; None where only a run will tell what it is or what it takes.

    Raises:
        ParamsError: it does not exist, cannot take these images, or is absurdly large.
    """
    found = _draft(arch, images)
    if isinstance(found, str):
        raise ParamsError(f"{key}: {found}")
    return found


@lru_cache(maxsize=64)
def _draft(arch: str, images: Images | None) -> nn.Module | str | None:
    """The network of `network`, or what is wrong with it."""
    published = ":" in arch
    try:
        nets.module_of(arch)
        if images is None or arch.startswith("python:"):  # a user's file runs only in the teacher stage
            return None
        with _bounded(_PUBLISHED if published else _PARAMETERS), nullcontext() if published else torch.device("meta"):
            # A published network is run once: at a size that costs little, and large enough for all of them.
            size = min(images.size, _ENOUGH) if published else images.size
            return nets.build(arch, images.classes, images.channels, size)
    except _TooLargeError as error:
        return None if published else f"{arch}: {error}"
    except PipelineError as error:
        return str(error)


class _TooLargeError(Exception):
    """A network that is not built to its end."""


@contextmanager
def _bounded(parameters: int) -> Iterator[None]:
    """While networks are built here, stop at the first parameter that makes them larger than this."""
    seen = layers = 0

    def count(_module: nn.Module, _name: str, parameter: nn.Parameter | None) -> None:
        nonlocal seen, layers
        seen, layers = seen + (0 if parameter is None else parameter.numel()), layers + 1
        if seen > parameters:
            raise _TooLargeError(f"more than {parameters} parameters; choose a smaller one")
        if layers > _LAYERS:
            raise _TooLargeError(f"more than {_LAYERS} layers' parameters; choose a shallower one")

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()


def network_of(teacher: TeacherBlock, images: Images | None) -> nn.Module | None:
    """The teacher's architecture as `network` gives it; nothing is downloaded, and no code of the user's runs.

    Raises:
        ParamsError: as in `network`.
    """
    match teacher:
        case Train() | CheckpointFile():
            return network(teacher.arch, images, "teacher.arch")
        case Torchvision():
            return network(_published(teacher), images or Images(_SOME, _RGB, _USUAL), "teacher.name")
        case Timm() | Python():
            return None


def of_needs(matrix: Matrix, teacher: TeacherBlock, net: nn.Module) -> Iterator[str]:
    """Methods whose teacher must have what this one's network has not."""
    if isinstance(teacher, Timm | Python):
        return
    arch = _published(teacher) if isinstance(teacher, Torchvision) else teacher.arch
    for name in sorted(set(matrix.methods) & set(methods.names()), key=matrix.methods.index):
        needs = methods.load(name).needs
        if needs.batch_norm and not nets.has_batch_norm(net):
            yield f"matrix.methods: {name!r}: {needing_batch_norm(f'teacher {arch}')}"
        if needs.head and points(net).head is None:
            yield f"matrix.methods: {name!r}: teacher {arch} does not end in a linear layer; take it out"


def missing_files(data: DataBlock | NoData, teacher: TeacherBlock, trust: tuple[str, ...]) -> Iterator[str]:
    """Files that a stage will look for and not find."""
    if isinstance(data, folder.Data) and not Path(data.root).expanduser().is_dir():
        yield f"data.root: {data.root}: no such folder"
    if isinstance(data, torchvision.Data) and not data.download and not Path(data.root).expanduser().is_dir():
        yield f"data.root: {data.root}: no such folder; put the files there, or set data.download: true"
    if isinstance(teacher, CheckpointFile):
        yield from _missing("teacher.path", teacher.path)
    if isinstance(teacher, Python):
        yield from _missing("teacher.path", teacher.path)
        yield from _missing("teacher.checkpoint", teacher.checkpoint)
        path = Path(teacher.path).expanduser()
        yield from _untrusted("teacher.path", path, trust)


def untrusted(settings: Settings, trust: tuple[str, ...]) -> Iterator[str]:
    """Students in files of the user's own that are not there, or whose code may not run."""
    students = settings.params.get("students")
    for name, block in cast(dict[str, Any], students).items() if isinstance(students, dict) else ():
        arch = cast(dict[str, Any], block).get("arch") if isinstance(block, dict) else None
        if isinstance(arch, str) and arch.startswith("python:") and arch.count(":") > 1:
            file = arch.removeprefix("python:").rpartition(":")[0]
            yield from _missing(f"students.{name}.arch", file)
            yield from _untrusted(f"students.{name}.arch", Path(file).expanduser(), trust)


def _untrusted(key: str, path: Path, trust: tuple[str, ...]) -> Iterator[str]:
    if path.is_file() and (digest := sha256_file(path)) not in trust:
        yield f"{key}: {path}: read it, then add its sha256 to `trust` so that it may run: {digest}"


def _needs_two(net: nn.Module, images: Images) -> bool:
    """Whether training on one image alone is an error: BatchNorm over a single value."""
    device = next((weights.device for weights in net.parameters()), None)
    return needs_batches(net, torch.zeros(1, images.channels, images.size, images.size, device=device))


def _reads_data(name: str) -> bool:
    return name in methods.names() and methods.load(name).needs.real


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 24 else f"{text[:20]}..."


def _published(teacher: Torchvision) -> str:
    return f"{teacher.source}:{teacher.name}"


def _references(matrix: Matrix) -> Iterator[str]:
    for name in matrix.references:
        if name not in matrix.methods:
            yield f"matrix.references: {name!r}: expected one of matrix.methods ({', '.join(matrix.methods)})"
        elif name in methods.names() and not _reads_data(name):
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


def _few_shot(matrix: Matrix, settings: Settings, classes: int) -> Iterator[str]:
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
    elif few.dataset in methods.names() and not _reads_data(few.dataset):
        yield f"few_shot.dataset: {few.dataset!r}: has no real images; name a method that reads real data"
    elif isinstance(count, int) and count < few.per_class * classes:
        yield (
            f"few_shot.per_class: {few.per_class}: of {classes} classes more than methods.{few.dataset}.count "
            f"({count}); lower it, or raise that"
        )


def _one_per_channel(teacher: Train, channels: int) -> Iterator[str]:
    for key in ("mean", "std"):
        values: tuple[float, ...] = getattr(teacher, key)
        if len(values) != channels:
            yield f"teacher.{key}: {list(values)}: data.channels is {channels}; give one number per channel"


def _name(data: DataBlock | NoData) -> str:
    return data.name if isinstance(data, torchvision.Data) else data.source


def _one_image(teacher: Train, net: nn.Module | None, images: Images) -> Iterator[str]:
    if net is not None and teacher.recipe.batch == 1 and _needs_two(net, images):
        yield f"teacher.recipe.batch: 1: BatchNorm in {teacher.arch} needs 2 images or more"


def _twice(key: str, values: tuple[object, ...]) -> Iterator[str]:
    yield from (f"{key}: {value!r}: stands twice" for value in dict.fromkeys(values) if values.count(value) > 1)


def _missing(key: str, file: str | None) -> Iterator[str]:
    if file is not None and not Path(file).expanduser().is_file():
        yield f"{key}: {file}: no such file"


def _count(classes: tuple[str, ...] | int | None) -> int:
    if classes is None:
        return _SOME
    return classes if isinstance(classes, int) else len(classes)
