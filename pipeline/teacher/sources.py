"""Any source becomes a teacher: trained here, from a file, published under a name, or a user's own code."""

from pathlib import Path
from typing import NamedTuple

from torch import nn

from pipeline import datasets, nets
from pipeline.core.device import Compute
from pipeline.core.errors import ParamsError, TeacherError
from pipeline.core.files import sha256_file
from pipeline.datasets import DataBlock, Labelled
from pipeline.teacher import checkpoint, fit, measure, published, usercode
from pipeline.teacher.blocks import CheckpointFile, Classes, Python, TeacherBlock, Timm, Torchvision, Train, parse
from pipeline.teacher.model import Teacher, TeacherInfo

__all__ = ["TeacherBlock", "make_teacher", "parse"]


class _Draft(NamedTuple):
    """A network with its weights, and what its teacher's card will say."""

    built: usercode.Built
    classes: tuple[str, ...]
    channels: int
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: str


def make_teacher(
    params: TeacherBlock, data: DataBlock, trust: tuple[str, ...], compute: Compute, seed: int, work: Path
) -> Teacher:
    """Make the teacher that a block describes.

    Args:
        params: the teacher block.
        data: the data block; real data gives class names, the accuracy, and what `source: train` trains on.
        trust: sha256 of user Python files whose code may run.
        compute: where and how to run.
        seed: of the run; decides initial weights and the order of training.
        work: an existing folder, where a training keeps its state to resume from; to be removed once the teacher is
            saved.

    Returns:
        The teacher, on the CPU; its `info.sha256` is empty until it is saved.

    Raises:
        PipelineError: the block does not fit the data, a file cannot be read or does not fit the architecture, code
            is not trusted, or real data is missing.
    """
    test = datasets.load(data, "test")
    match params:
        case Train():
            draft = _trained(params, data, test, trust, compute, seed, work)
        case CheckpointFile():
            draft = _from_file(params, test, trust)
        case Python():
            draft = _from_user(params, test, trust)
        case Torchvision():
            draft = _from_published(params, "torchvision", published.from_torchvision(params), test)
        case Timm():
            draft = _from_published(params, "timm", published.from_timm(params), test)
    return _finished(draft, test, compute)


def _trained(
    params: Train,
    data: DataBlock,
    test: Labelled | None,
    trust: tuple[str, ...],
    compute: Compute,
    seed: int,
    work: Path,
) -> _Draft:
    train = datasets.load(data, "train")
    if train is None or test is None:
        raise ParamsError("teacher.source: 'train' needs real data, but data.source is 'none'; use another source")
    channels, size = train.images.shape[1], train.images.shape[-1]
    for key, values in (("mean", params.mean), ("std", params.std)):
        if len(values) != channels:
            raise ParamsError(f"teacher.{key}: {list(values)}: {len(values)} values, but data.channels is {channels}")
    classes = _distinct(train.classes)
    built = fit.train(params, train, trust, compute, seed, work)
    return _Draft(built, classes, channels, size, params.mean, params.std, f"{params.arch} trained here")


def _from_file(params: CheckpointFile, test: Labelled | None, trust: tuple[str, ...]) -> _Draft:
    classes = _names(params.classes, None, test)
    built = usercode.build(params.arch, len(classes), params.channels, params.size, trust)
    source = _fill(built.net, params.path, params.key, params.arch)
    return _Draft(built, classes, params.channels, params.size, params.mean, params.std, source)


def _from_user(params: Python, test: Labelled | None, trust: tuple[str, ...]) -> _Draft:
    classes = _names(params.classes, None, test)
    arch = f"python:{params.path}:{params.callable}"
    built = usercode.build(arch, len(classes), params.channels, params.size, trust)
    if params.checkpoint is None:
        built.net.float()
        checkpoint.load_into(built.net, built.net.state_dict(), arch)
        source = f"{params.callable} of {Path(params.path).name}, with its own weights"
    else:
        source = _fill(built.net, params.checkpoint, params.key, arch)
    return _Draft(built, classes, params.channels, params.size, params.mean, params.std, source)


def _from_published(
    params: Torchvision | Timm, family: str, found: published.Published, test: Labelled | None
) -> _Draft:
    classes = _names(params.classes, found.classes, test)
    size, channels = params.size or found.size, 3
    arch = f"{family}:{params.name}"
    net = nets.build(arch, len(classes), channels, size)
    checkpoint.load_into(net, found.weights, f"{found.label} as {arch}")
    built = usercode.Built(net, arch, None)
    return _Draft(built, classes, channels, size, params.mean or found.mean, params.std or found.std, found.label)


def _fill(net: nn.Module, file: str, key: str | None, arch: str) -> str:
    """Load a checkpoint file into a network; says which file it was without saying where."""
    path = Path(file).expanduser()
    weights = checkpoint.read_weights(path, key)
    net.float()
    checkpoint.load_into(net, weights, f"{path} as {arch}")
    return f"{path.name} (sha256 {sha256_file(path)})"


def _names(given: Classes, offered: tuple[str, ...] | None, test: Labelled | None) -> tuple[str, ...]:
    """Class names: as given, else as published with the weights, else as in the data, else numbers."""
    if isinstance(given, tuple):
        return given
    known = offered or (test.classes if test else None)
    if given is not None and (known is None or len(known) != given):
        known = test.classes if test and len(test.classes) == given else tuple(map(str, range(given)))
    if known is None:
        raise ParamsError(
            "teacher.classes: null, but no real data names them; give the number of classes or their names"
        )
    return _distinct(known)


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    """ImageNet has two cranes: a name that stands twice gets its label's number."""
    return tuple(name if names.count(name) == 1 else f"{name} ({label})" for label, name in enumerate(names))


def _finished(draft: _Draft, test: Labelled | None, compute: Compute) -> Teacher:
    info = TeacherInfo(
        arch=draft.built.arch,
        classes=draft.classes,
        channels=draft.channels,
        size=draft.size,
        mean=draft.mean,
        std=draft.std,
        batch_norm=nets.has_batch_norm(draft.built.net),
        sha256="",
        accuracy=None,
        source=draft.source,
    )
    teacher = Teacher(draft.built.net, info, draft.built.code)
    measure.check_answers(teacher)
    if test is not None:
        _check_data(info, test)
        teacher.info = info.model_copy(update={"accuracy": measure.accuracy(teacher, test, compute)})
    return teacher


def _check_data(info: TeacherInfo, test: Labelled) -> None:
    teacher = (len(info.classes), info.channels, info.size)
    data = (len(test.classes), test.images.shape[1], test.images.shape[-1])
    for what, expected, found in zip(("classes", "channels", "size"), teacher, data, strict=True):
        if expected != found:
            raise TeacherError(
                f"the teacher's {what}: {expected}, but the real data has {found}; "
                f"make teacher.{what} and the data block agree, or set data.source: none"
            )
