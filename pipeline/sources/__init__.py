"""The ways to come by a teacher: trained here, from a file, published under a name, or a user's own code."""

import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import nn

from .. import nets, real
from ..classifier import Built, Card, Classifier, Teacher, TeacherCard, build_network, load_into
from ..core.checkpoint import Checkpoint
from ..core.device import Compute
from ..core.errors import ParamsError, TeacherError
from ..core.files import sha256_file
from ..core.images import Channels, Side, from_uint8
from ..core.params import Block, build, build_one_of
from ..core.progress import track
from ..core.rng import stream
from ..nets.weights import fitting
from ..optimise.network import Recipe
from ..real import DataBlock, Labelled, NoData
from . import checkpoint, published
from .train import train

__all__ = ["CheckpointFile", "Data", "Python", "TeacherBlock", "Timm", "Torchvision", "Train", "make_teacher", "parse"]

_BATCH = 500  # images at once for the accuracy; the result does not depend on it

# -- the block -------------------------------------------------------------------------------------------------------

Mean = Annotated[tuple[float, ...], Field(min_length=1)]
Std = Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)]
Name = Annotated[str, Field(min_length=1)]
Names = Annotated[tuple[Name, ...], Field(min_length=2)]
Count = Annotated[int, Field(ge=2)]
Classes = Names | Count | None  # None: as in the data, or as published with the weights


class Train(Block):
    """Train a teacher here, on the real data of the `data` block, which also gives classes, channels and size."""

    source: Literal["train"]
    arch: Name  # as in `nets.build`
    mean: Mean  # per channel, in [0, 1] units
    std: Std
    recipe: Recipe


class _Given(Block):
    """What a file of weights does not say."""

    classes: Classes
    channels: Channels
    size: Side
    mean: Mean  # per channel, in [0, 1] units
    std: Std

    @field_validator("mean", "std")
    @classmethod
    def _one_per_channel(cls, values: tuple[float, ...], info: ValidationInfo) -> tuple[float, ...]:
        channels = info.data.get("channels", len(values))
        if len(values) != channels:
            raise ValueError(f"{len(values)} values for {channels} channels")
        return values


class CheckpointFile(_Given):
    """Weights from a file; see `checkpoint.read_weights`."""

    source: Literal["checkpoint"]
    path: Name  # relative to the current directory; ~ is expanded
    key: Name | None  # where in the checkpoint the state dict is; None to look in the usual places
    arch: Name  # as in `nets.build`


class Python(_Given):
    """A network from a callable in the user's own Python file, with weights from a checkpoint or its own."""

    source: Literal["python"]
    path: Name  # the file; its sha256 must stand in the top-level `trust`
    callable: Name  # in the file; called as `nets.build` documents
    checkpoint: Name | None  # None: the callable returns a trained network
    key: Name | None


class _Published(Block):
    """Pretrained weights by name; None: as published with them."""

    name: Name
    weights: Name  # "DEFAULT", or one of the names published for this network
    classes: Classes
    size: Side | None
    mean: Annotated[tuple[float, ...], Field(min_length=3, max_length=3)] | None
    std: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=3, max_length=3)] | None


class Torchvision(_Published):
    """A classifier of torchvision with its weights, downloaded when they are not in torch's cache."""

    source: Literal["torchvision"]


class Timm(_Published):
    """A classifier of timm with its weights; needs the `timm` extra."""

    source: Literal["timm"]


TeacherBlock = Train | CheckpointFile | Torchvision | Timm | Python

_BLOCKS: dict[str, type[TeacherBlock]] = {
    "train": Train,
    "checkpoint": CheckpointFile,
    "torchvision": Torchvision,
    "timm": Timm,
    "python": Python,
}


def parse(block: Any, key: str = "teacher") -> TeacherBlock:
    """Validate a teacher block; its `source` says which fields it has.

    Args:
        block: plain data, as read from the parameter file.
        key: the block's full key, for messages.

    Raises:
        ParamsError: one line per wrong key.
    """
    return build_one_of(_BLOCKS, block, key)


# -- the teacher -----------------------------------------------------------------------------------------------------


class Data(NamedTuple):
    """The real data that a teacher needs; both None where there is none."""

    train: Labelled | None  # None, too, where nothing is trained here
    test: Labelled | None

    @classmethod
    def read(cls, params: TeacherBlock, data: DataBlock | NoData) -> "Data":
        """What this teacher takes of it: the test split and, to train on, the other one.

        Raises:
            ParamsError: there is none, but the teacher is trained here.
            DataError: files are missing, or are not what the block says.
        """
        found = cls(real.load(data, "train") if isinstance(params, Train) else None, real.load(data, "test"))
        if isinstance(params, Train) and (found.train is None or found.test is None):
            raise ParamsError("teacher.source: 'train' needs real data, but data.source is 'none'; use another source")
        return found

    def digest(self) -> str | None:
        """sha256 of what is trained on: a part of the key under which a training's state is kept."""
        return None if self.train is None else self.train.digest()


class _Draft(NamedTuple):
    """A network with its weights, and what its card will say."""

    built: Built
    card: Card
    source: str


def make_teacher(
    params: TeacherBlock, data: Data, trust: tuple[str, ...], compute: Compute, seed: int, state: Checkpoint
) -> Teacher:
    """Make the teacher that a block describes.

    Args:
        params: the teacher block.
        data: gives class names, the accuracy, and what `source: train` trains on.
        trust: sha256 of user Python files whose code may run.
        compute: where and how to run.
        seed: of the run; decides initial weights and the order of training.
        state: of a training, to resume from; of this training alone, by everything that is handed in here.

    Returns:
        The frozen teacher, on the CPU; its `card.sha256` is empty until it is saved.

    Raises:
        PipelineError: the block does not fit the data, a file cannot be read or does not fit the architecture, code
            is not trusted, or the network is no usable teacher.
    """
    match params:
        case Train():
            draft = _trained(params, data, trust, compute, seed, state)
        case CheckpointFile():
            draft = _from_file(params, data.test, trust)
        case Python():
            draft = _from_user(params, data.test, trust)
        case Torchvision():
            draft = _from_published(
                params, "torchvision", published.from_torchvision(params.name, params.weights), data
            )
        case Timm():
            draft = _from_published(params, "timm", published.from_timm(params.name, params.weights), data)
    return _finished(draft, data.test, compute)


def _trained(
    params: Train, data: Data, trust: tuple[str, ...], compute: Compute, seed: int, state: Checkpoint
) -> _Draft:
    assert data.train is not None  # as `Data.read` gives it
    channels, size = data.train.images.shape[1], data.train.images.shape[-1]
    for key, values in (("mean", params.mean), ("std", params.std)):
        if len(values) != channels:
            raise ParamsError(f"teacher.{key}: {list(values)}: {len(values)} values, but data.channels is {channels}")
    classes, rng = _distinct(data.train.classes), stream(seed, "teacher/weights")
    built = build_network(params.arch, len(classes), channels, size, trust, rng=rng)
    card = _card(built.arch, classes, channels, size, params.mean, params.std)
    train(built.net, card, params.recipe, data.train, compute, seed, state)
    return _Draft(built, card, f"{params.arch} trained here")


def _from_file(params: CheckpointFile, test: Labelled | None, trust: tuple[str, ...]) -> _Draft:
    classes = _names(params.classes, None, test)
    built = build_network(params.arch, len(classes), params.channels, params.size, trust)
    card = _card(built.arch, classes, params.channels, params.size, params.mean, params.std)
    return _Draft(built, card, _fill(built.net, params.path, params.key, params.arch))


def _from_user(params: Python, test: Labelled | None, trust: tuple[str, ...]) -> _Draft:
    classes = _names(params.classes, None, test)
    arch = f"python:{params.path}:{params.callable}"
    built = build_network(arch, len(classes), params.channels, params.size, trust)
    card = _card(built.arch, classes, params.channels, params.size, params.mean, params.std)
    if params.checkpoint is None:
        built.net.float()
        load_into(built.net, built.net.state_dict(), arch)
        source = f"{params.callable} of {Path(params.path).name}, with its own weights"
    else:
        source = _fill(built.net, params.checkpoint, params.key, arch)
    return _Draft(built, card, source)


def _from_published(params: Torchvision | Timm, family: str, found: published.Published, data: Data) -> _Draft:
    classes = _names(params.classes, found.classes, data.test)
    arch = f"{family}:{params.name}"
    card = _card(arch, classes, 3, params.size or found.size, params.mean or found.mean, params.std or found.std)
    net = nets.build(arch, len(classes), 3, card.size)
    load_into(net, found.weights, f"{found.label} as {arch}")
    return _Draft(Built(net, arch, None), card, found.label)


def _fill(net: nn.Module, file: str, key: str | None, arch: str) -> str:
    """Load a checkpoint file into a network; says which file it was without saying where."""
    path = Path(file).expanduser()
    net.float()
    weights = checkpoint.read_weights(path, key, fitting(net, f"{path} as {arch}"))
    load_into(net, weights, f"{path} as {arch}")
    return f"{path.name} (sha256 {sha256_file(path)})"


def _names(given: Classes, offered: tuple[str, ...] | None, test: Labelled | None) -> tuple[str, ...]:
    """Class names: as given, else as published with the weights, else as in the data, else numbers."""
    if isinstance(given, tuple):
        return _distinct(given)
    known = offered or (test.classes if test else None)
    if given is not None and (known is None or len(known) != given):
        known = test.classes if test and len(test.classes) == given else tuple(map(str, range(given)))
    if known is None:
        raise ParamsError(
            "teacher.classes: null, but no real data names them; give the number of classes or their names"
        )
    return _distinct(known)


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    """ImageNet has two cranes: a name that stands twice gets its label's number.

    Raises:
        ParamsError: names are still the same.
    """
    counts = Counter(names)
    numbered = tuple(f"{name} ({label})" if counts[name] > 1 else name for label, name in enumerate(names))
    name, count = Counter(numbered).most_common(1)[0]
    if count > 1:
        raise ParamsError(f"teacher.classes: {name!r} stands for {count} classes; give each a name of its own")
    return numbered


def _card(
    arch: str, classes: tuple[str, ...], channels: int, size: int, mean: tuple[float, ...], std: tuple[float, ...]
) -> Card:
    """What can be said before there are weights, so that a name that no card can hold is found before a training.

    Raises:
        ParamsError: one line for each of them.
    """
    block = {"arch": arch, "classes": classes, "channels": channels, "size": size, "mean": mean, "std": std}
    card = build(Card, block | {"sha256": ""}, "teacher")
    # Networks with inputs in other units are known, but 0..255 in place of [0, 1] is the usual mistake.
    if any(abs(value) > 2 for value in mean) or any(not 1e-3 < value < 10 for value in std):
        sys.stderr.write(f"warning: teacher.mean {list(mean)} and std {list(std)} are in [0, 1] units, not 0..255\n")
    return card


def _finished(draft: _Draft, test: Labelled | None, compute: Compute) -> Teacher:
    facts: Mapping[str, Any] = {"accuracy": None, "source": draft.source}
    card = TeacherCard(**dict(draft.card), batch_norm=nets.has_batch_norm(draft.built.net), **facts)
    teacher = Classifier(draft.built.net, card, draft.built.code).freeze()
    check_answers(teacher)
    if test is not None:
        _check_data(card, test)
        teacher.card = card.model_copy(update={"accuracy": accuracy(teacher, test, compute)})
    return teacher


def _check_data(card: Card, test: Labelled) -> None:
    teacher = (len(card.classes), card.channels, card.size)
    data = (len(test.classes), test.images.shape[1], test.images.shape[-1])
    for what, expected, found in zip(("classes", "channels", "size"), teacher, data, strict=True):
        if expected != found:
            raise TeacherError(
                f"the teacher's {what}: {expected}, but the real data has {found}; "
                f"make teacher.{what} and the data block agree, or set data.source: none"
            )


def check_answers(teacher: Teacher) -> None:
    """Run a blank image and two of noise through the teacher.

    Raises:
        TeacherError: the network fails on images of the declared size, does not return [N, K] finite logits, or
            gives two different images exactly the same logits.
    """
    card = teacher.card
    noise = torch.rand(2, card.channels, card.size, card.size, generator=stream(0, "teacher/answers"))
    images = torch.cat([torch.zeros_like(noise[:1]), noise])
    try:
        with torch.no_grad():
            logits = teacher(images)
    # The network may be anybody's: whatever it raises, it does not take these images.
    except Exception as error:
        reason = " ".join(str(error).split())
        raise TeacherError(f"{card.arch}: fails on images of shape {list(images.shape[1:])}: {reason}") from error
    shape = list(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
    if shape != [3, len(card.classes)]:
        raise TeacherError(f"{card.arch}: returns {shape} for 3 images, expected [3, {len(card.classes)}] logits")
    for what, rows in (("a blank image", logits[:1]), ("an image of noise", logits[1:])):
        if not bool(torch.isfinite(rows).all()):
            raise TeacherError(f"{card.arch}: returns logits that are not finite for {what}; check its weights")
    if torch.equal(logits[1], logits[2]):
        raise TeacherError(
            f"{card.arch}: gives two different images exactly the same logits; "
            "check its weights, and that teacher.mean and teacher.std are in [0, 1] units"
        )


def accuracy(teacher: Teacher, test: Labelled, compute: Compute) -> float:
    """Top-1 accuracy, 0..1, in float32; the teacher is left on the CPU."""
    device = compute.torch_device()
    compute.place(teacher)
    right = 0
    try:
        with torch.no_grad():
            for start in track(range(0, len(test.labels), _BATCH), "teacher on the test set", unit="batch"):
                images = from_uint8(test.images[start : start + _BATCH].to(device))
                labels = test.labels[start : start + _BATCH].to(device)
                right += int((teacher(images).argmax(dim=1) == labels).sum())
    finally:
        teacher.to("cpu")
    return right / len(test.labels)
