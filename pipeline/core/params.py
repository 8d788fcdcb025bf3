"""params.yaml: YAML 1.2 in, frozen validated models out; all errors at once, each with its full key."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ConfigDict, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import AliasEvent

from pipeline.core.errors import ParamsError

__all__ = ["Block", "build", "build_one_of", "read_params", "slice_of"]

_MAX_BYTES = 1 << 20


class Block(BaseModel):
    """A params block: frozen, no unknown key, no default, no coercion from text to numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


B = TypeVar("B", bound=Block)


def read_params(path: Path) -> dict[str, Any]:
    """Read a parameter file as plain dicts and lists.

    Raises:
        ParamsError: not there, too large, not YAML 1.2, duplicate keys, aliases (an exponential bomb in a
            small file) or tags that build Python objects; the message names the line.
    """
    if not path.is_file():
        raise ParamsError(f"{path}: no such parameter file; run `python -m stages.preset digits` for the default one")
    if path.stat().st_size > _MAX_BYTES:
        raise ParamsError(f"{path}: {path.stat().st_size} bytes, expected a parameter file of at most {_MAX_BYTES}")
    text = path.read_text(encoding="utf-8")
    yaml = YAML(typ="safe", pure=True)
    try:
        for event in yaml.parse(text):  # pyright: ignore[reportUnknownVariableType]
            if isinstance(event, AliasEvent):
                line = event.start_mark.line + 1  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
                raise ParamsError(f"{path}: line {line}: aliases (*name) are refused; write the value out")
        content = yaml.load(text)  # pyright: ignore[reportUnknownVariableType]
    except YAMLError as error:
        raise ParamsError(f"{path}: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ParamsError(f"{path}: expected a mapping of blocks, found {type(content).__name__}")  # pyright: ignore[reportUnknownArgumentType]
    return cast(dict[str, Any], content)


def slice_of(params: dict[str, Any], key: str) -> Any:
    """The value under a dotted key.

    Raises:
        ParamsError: a part of the key is missing; the message lists what is there.
    """
    value: Any = params
    seen: list[str] = []
    for part in key.split("."):
        if not isinstance(value, dict) or part not in value:
            there = ", ".join(map(str, cast(dict[str, Any], value))) if isinstance(value, dict) else repr(value)
            raise ParamsError(f"{key}: missing; {'.'.join(seen) or 'the file'} has {there}")
        value = cast(dict[str, Any], value)[part]
        seen.append(part)
    return value


def build(model: type[B], block: Any, key: str) -> B:
    """Validate a block against its model.

    Args:
        model: a `Block` class.
        block: plain data, as `slice_of` gives it.
        key: the block's full key, for messages.

    Raises:
        ParamsError: one line per wrong key: full key, the value, what is allowed.
    """
    try:
        text = json.dumps(block, default=str)
        return model.model_validate_json(text)
    except ValidationError as error:
        raise ParamsError("\n".join(_line(key, item) for item in error.errors())) from error


def build_one_of(models: Mapping[str, type[B]], block: Any, key: str) -> B:
    """Validate a block whose `source` says which of several models it follows.

    Args:
        models: by the value of `source`.
        block: plain data, as `slice_of` gives it.
        key: the block's full key, for messages.

    Raises:
        ParamsError: an unknown source, or one line per wrong key.
    """
    source = cast(dict[str, Any], block).get("source") if isinstance(block, dict) else None
    if not isinstance(source, str) or source not in models:
        raise ParamsError(f"{key}.source: {source!r}: must be one of {', '.join(models)}")
    return build(models[source], block, key)


def _line(key: str, item: Any) -> str:
    full = ".".join([key, *map(str, item["loc"])])
    if item["type"] == "missing":
        return f"{full}: missing; it has no default"
    if item["type"] == "extra_forbidden":
        return f"{full}: {item['input']!r}: unknown key; remove it or check its spelling"
    return f"{full}: {item['input']!r}: {item['msg'][0].lower() + item['msg'][1:]}"
