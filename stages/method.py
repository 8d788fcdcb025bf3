"""What `params.yaml` says of a dataset: the method with its block, how many images, and how they are stored."""

from typing import Annotated, Any, NamedTuple, cast

from pydantic import Field

from pipeline import methods
from pipeline.core.params import Block, build
from pipeline.methods import Method
from pipeline.shards.schema import Encoding
from stages.settings import Settings

__all__ = ["MethodBlock", "ShardParams", "read_method", "recorded"]

_LOCAL = {"root", "download"}  # where somebody keeps real data is nobody else's business


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
    block: Block  # the method, as a block
    method: Method  # the same object, as a method


def read_method(settings: Settings, name: str) -> MethodBlock:
    """Validate one method's block; `count` is the dataset's and is taken out before the method is built.

    Raises:
        ParamsError: one line per wrong key.
    """
    model = methods.load(name)
    fields = settings.mapping(f"methods.{name}")
    counts = {key: fields.pop(key) for key in ("count",) if key in fields}
    fields |= {key: settings.slice(key) for key in cast(Method, model).reads}
    block = build(model, fields, f"methods.{name}")
    return MethodBlock(build(_Count, counts, f"methods.{name}").count, block, cast(Method, block))


def recorded(block: Block) -> dict[str, Any]:
    """A method's parameters as the manifest records them: all but the places on this machine."""
    fields = block.model_dump(mode="json")
    for name, value in fields.items():
        if isinstance(value, dict):
            fields[name] = {key: item for key, item in cast(dict[str, Any], value).items() if key not in _LOCAL}
    return fields
