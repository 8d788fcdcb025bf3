"""The `teacher` block: where a teacher may come from, one model per `source`."""

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, ValidationInfo, field_validator

from pipeline.core.params import Block, build_one_of
from pipeline.training import Recipe

__all__ = ["CheckpointFile", "Python", "TeacherBlock", "Timm", "Torchvision", "Train", "parse"]

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
    channels: PositiveInt
    size: PositiveInt  # height and width in pixels
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
    size: PositiveInt | None  # height and width in pixels
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
