"""Synthesis methods, one file each; the file's name is the registry.

A file has a class `Method`, a `BaseMethod` whose fields are its params block. `fit` looks at the teacher and returns a
source, from which batches are drawn. A method never sees counts, shard sizes, encodings or normalisation.
"""

import importlib
import pkgutil

from ..core.errors import ParamsError
from ..optimise.source import Attachment, BaseMethod, Batch, Fitted, Needs, Numbered, Run, Source, draw

__all__ = [
    "Attachment",
    "BaseMethod",
    "Batch",
    "Fitted",
    "Needs",
    "Numbered",
    "Run",
    "Source",
    "draw",
    "load",
    "names",
    "needing_batch_norm",
]


def names() -> tuple[str, ...]:
    """Every method's name: the files in this folder."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def load(name: str) -> type[BaseMethod]:
    """The method class of a file in this folder.

    Raises:
        ParamsError: there is no such file.
    """
    if name not in names():
        raise ParamsError(f"methods.{name}: no such method; there are {', '.join(names())}")
    return importlib.import_module(f"{__name__}.{name}").Method


def needing_batch_norm(teacher: str) -> str:
    """What to say when a method that matches BatchNorm statistics meets a teacher that keeps none."""
    needs = {name: load(name).needs for name in names()}
    others = ", ".join(name for name, each in needs.items() if not each.real and not each.batch_norm)
    return f"{teacher} has no BatchNorm layers, whose statistics this method matches; {others} need none"
