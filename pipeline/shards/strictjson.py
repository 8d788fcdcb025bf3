"""JSON that was written by somebody else: one meaning only, bounded in size, depth and numbers."""

import json
import math
from typing import Any, NoReturn, cast

from pipeline.core.errors import ShardError
from pipeline.shards.limits import Limits

__all__ = ["parse_object"]


def parse_object(content: bytes, name: str, limits: Limits) -> dict[str, Any]:
    """Parse a JSON object.

    Args:
        content: UTF-8 without a byte order mark.
        name: the file, for messages.
        limits: caps on size, depth, number of values and length of a number.

    Raises:
        ShardError: not JSON, not an object, duplicate keys, NaN or Infinity, or over a cap.
    """
    if len(content) > limits.manifest_bytes:
        raise ShardError(f"{name}: {len(content)} bytes, expected at most {limits.manifest_bytes}")
    # Each value needs one of these before it; counted first, since small text can make large objects.
    if sum(map(content.count, (b",", b"[", b"{"))) > limits.json_nodes:
        raise ShardError(f"{name}: more than {limits.json_nodes} values")
    reader = _Reader(name, limits)
    try:
        value = json.loads(
            content.decode("utf-8"),
            object_pairs_hook=reader.pairs,
            parse_int=reader.integer,
            parse_float=reader.real,
            parse_constant=reader.constant,
        )
    except RecursionError:
        raise ShardError(f"{name}: nested deeper than {limits.json_depth} levels") from None
    except ValueError as error:  # bad UTF-8 or bad JSON
        raise ShardError(f"{name}: not JSON: {' '.join(str(error).split())[:200]}") from None
    _check_depth(value, name, limits)
    if not isinstance(value, dict):
        raise ShardError(f"{name}: expected a JSON object, found {type(value).__name__}")
    return cast(dict[str, Any], value)


class _Reader:
    """What `json.loads` asks about each object and number."""

    def __init__(self, name: str, limits: Limits) -> None:
        self._name = name
        self._limits = limits

    def pairs(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise ShardError(f"{self._name}: key {twice[:80]!r} stands twice in one object")
        return found

    def integer(self, text: str) -> int:
        return int(self._short(text))

    def real(self, text: str) -> float:
        value = float(self._short(text))
        return value if math.isfinite(value) else self.constant(text)

    def constant(self, text: str) -> NoReturn:
        raise ShardError(f"{self._name}: {text} is not a number that JSON knows")

    def _short(self, text: str) -> str:
        if len(text) > self._limits.json_number:
            raise ShardError(f"{self._name}: a number of {len(text)} characters, {text[:12]}...")
        return text


def _check_depth(value: Any, name: str, limits: Limits) -> None:
    """Refuse too much depth, without recursion."""
    level: list[Any] = [value]
    for _ in range(limits.json_depth):
        level = [item for parent in level for item in _children(parent)]
        if not level:
            return
    raise ShardError(f"{name}: nested deeper than {limits.json_depth} levels")


def _children(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(cast(dict[str, Any], value).values())
    return cast(list[Any], value) if isinstance(value, list) else []
