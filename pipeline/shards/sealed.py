"""Small records in a work directory, each with its own hash, so that a damaged one is not believed."""

import json
from pathlib import Path
from typing import Any, TypeVar, cast

from pipeline.core.errors import ParamsError
from pipeline.core.files import canonical_json, sha256_bytes
from pipeline.core.params import Block, build

__all__ = ["read_object", "read_sealed", "sealed"]

B = TypeVar("B", bound=Block)


def sealed(record: Block) -> bytes:
    """The one file content that stands for a record.

    Raises:
        ValueError: a number of it has no place in JSON.
    """
    content = record.model_dump()
    return canonical_json({"record": content, "sha256": sha256_bytes(canonical_json(content))})


def read_sealed(model: type[B], path: Path) -> B | None:
    """Read a record back; None when the file is missing or is not, to the byte, what `sealed` makes of its record."""
    content = read_object(path)
    try:
        record = build(model, content.get("record"), str(path))
        return record if sealed(record) == path.read_bytes() else None
    except (ParamsError, OSError):
        return None


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object; an empty one when the file is missing or damaged."""
    try:
        content: Any = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return cast(dict[str, Any], content) if isinstance(content, dict) else {}
