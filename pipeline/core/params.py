"""params.yaml: YAML 1.2 in, frozen validated models out; all errors at once, each with its full key."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ConfigDict, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent

from .errors import ParamsError, cure_of

__all__ = ["Block", "build", "build_one_of", "read_params", "slice_of"]

_MAX_BYTES = 1 << 18  # a full one has 20 kB; the parser needs six seconds for this many
_MAX_DEPTH = 64


class Block(BaseModel):
    """A params block: frozen, no unknown key, no default, no coercion from text to numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


B = TypeVar("B", bound=Block)


def read_params(path: Path) -> dict[str, Any]:
    """Read a parameter file as plain dicts and lists.

    Raises:
        ParamsError: not there, no file, too large, not UTF-8, not YAML 1.2, duplicate keys, keys that are not text,
            aliases (an exponential bomb in a small file) or tags that build Python objects; the message names the line
            where there is one.
    """
    text = _text(path)
    yaml = YAML(typ="safe", pure=True)
    try:
        _refuse_bombs(yaml.parse(text))  # pyright: ignore[reportUnknownArgumentType]
        content: Any = yaml.load(text)
        _require_text_keys(content)
    except YAMLError as error:
        said = " ".join(str(error).replace('in "<unicode string>", ', "in ").split())
        raise ParamsError(f"{path}: {said}") from error
    except ParamsError as error:
        raise ParamsError(f"{path}: {error}") from error
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        # What the parser's own conversions leave uncaught: 2001-99-99, `!!int abc`, numbers of 5,000 digits.
        said = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise ParamsError(f"{path}: a value that cannot be read ({said[:200]}); quote it if it is text") from error
    if not isinstance(content, dict):
        raise ParamsError(f"{path}: expected a mapping of blocks, found {type(content).__name__}")
    return cast(dict[str, Any], content)


def _text(path: Path) -> str:
    """The content of a parameter file."""
    try:
        if not path.is_file():
            if path.exists():
                raise ParamsError(f"{path}: no regular file; a parameter file must stand there")
            cure = "run `python -m stages.preset digits` for the default one"
            raise ParamsError(f"{path}: no such parameter file; {cure}")
        if path.stat().st_size > _MAX_BYTES:
            raise ParamsError(f"{path}: {path.stat().st_size} bytes, expected a parameter file of at most {_MAX_BYTES}")
        content = path.read_bytes()
        return content.decode("utf-8")
    except OSError as error:
        raise ParamsError(f"{path}: cannot be read: {error.strerror or error}; {cure_of(error)}") from error
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1  # pyright: ignore[reportPossiblyUnboundVariable]
        raise ParamsError(f"{path}: line {line}: not UTF-8; save the file in that encoding") from error


def _refuse_bombs(events: Iterable[Any]) -> None:
    """Stop before a small file costs much: aliases, and nesting that no parameters have."""
    depth = 0
    for event in events:
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if isinstance(event, AliasEvent):
            line = event.start_mark.line + 1  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
            raise ParamsError(f"line {line}: aliases (*name) are refused; write the value out")
        if depth > _MAX_DEPTH:
            line = event.start_mark.line + 1
            raise ParamsError(f"line {line}: nested deeper than {_MAX_DEPTH} levels")


def _require_text_keys(value: Any, where: str = "") -> None:
    if isinstance(value, dict):
        for key, item in cast(dict[Any, Any], value).items():
            if not isinstance(key, str):
                at = f"under {where}" if where else "in the file"
                raise ParamsError(f"the key {key!r} {at}: keys are text; remove it or quote it")
            _require_text_keys(item, f"{where}.{key}" if where else key)
    elif isinstance(value, list):
        for index, item in enumerate(cast(list[Any], value)):
            _require_text_keys(item, f"{where}.{index}")


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
    said = item["msg"].removeprefix("Value error, ")  # of a validator of ours
    return f"{full}: {item['input']!r}: {said[0].lower() + said[1:]}"
