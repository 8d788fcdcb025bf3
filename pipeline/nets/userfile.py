"""A network from a user's own Python file: `python:PATH:CALLABLE`.

The file's code runs with the rights of the person who runs the pipeline, so it runs only when its sha256 stands in
`trust` in params.yaml. It must be one self-contained file: what it imports from beside it would not be covered by
the hash, and is not found. The callable takes the keywords `classes`, `channels` and `size`, or fewer, and returns
a network from normalised [N, channels, size, size] images to [N, classes] logits:

    def my_net(classes: int, channels: int, size: int) -> torch.nn.Module: ...

Where the network does not end in a linear layer that makes the logits, or to name its blocks, it declares
`blocks: tuple[str, ...]` and `head: str` as attributes, dotted names of its submodules.
"""

import importlib.util
import inspect
import sys
from collections.abc import Callable, Collection
from importlib.abc import SourceLoader
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from ..core.errors import ParamsError, TeacherError
from ..core.files import sha256_bytes
from .layers import require
from .probe import note

__all__ = ["build"]

_MAX_BYTES = 1 << 20


class _Bytes(SourceLoader):
    """Loads a module from bytes at hand: what was hashed is what runs, whatever has become of the file."""

    def __init__(self, path: Path, content: bytes) -> None:
        self.path = path
        self.content = content

    def get_filename(self, fullname: str) -> str:  # noqa: ARG002 - the base class asks for it
        return str(self.path)

    def get_data(self, path: str) -> bytes:  # noqa: ARG002 - the base class asks for it
        return self.content


def build(arch: str, classes: int, channels: int, size: int, trust: Collection[str]) -> nn.Module:
    """Call the file's callable, once its bytes are found to be trusted.

    Args:
        arch: `python:PATH:CALLABLE`; a relative path starts at the working directory.
        classes: handed to the callable.
        channels: handed to the callable.
        size: handed to the callable.
        trust: sha256, in hex, of the files whose code may run.

    Raises:
        ParamsError: not of this form, or no image could have these dimensions.
        TeacherError: no such file, not trusted (the message gives the sha256 and what to do with it), or its code
            fails, or does not make a classifier of these dimensions.
    """
    require(arch, classes, channels, size, 1)
    place, _, name = arch.removeprefix("python:").rpartition(":")
    if not place or not name.isidentifier():
        raise ParamsError(f"{arch}: expected python:PATH:CALLABLE, such as python:nets/mine.py:my_net")
    path = Path(place)
    content = _read(path)
    digest = sha256_bytes(content)
    if digest not in {entry.lower() for entry in trust}:
        raise TeacherError(
            f"{path}: Python code runs only with your consent; read the file, then add its sha256 {digest} "
            "to `trust` in params.yaml"
        )
    factory = _factory(_load(path, content, digest), path, name)
    return _checked(arch, factory, {"classes": classes, "channels": channels, "size": size})


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise TeacherError(f"{path}: no such Python file")
    with path.open("rb") as file:
        content = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise TeacherError(f"{path}: more than {_MAX_BYTES} bytes, too large for the Python file of a network")
    return content


def _load(path: Path, content: bytes, digest: str) -> ModuleType:
    """Run the bytes as a module of a name of their own; it stays importable, as dataclasses and pickle require."""
    place = sha256_bytes(str(path.resolve()).encode())
    name = f"photogram_user_{digest}_{place[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    loader = _Bytes(path, content)
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    if spec is None:
        raise TeacherError(f"{path}: cannot be loaded as a Python module")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise TeacherError(f"{path}: fails on loading: {_one_line(error)}") from error
    return module


def _factory(module: ModuleType, path: Path, name: str) -> Callable[..., Any]:
    factory: Any = getattr(module, name, None)
    if not callable(factory):
        own = [key for key, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__]
        raise TeacherError(f"{path}: has no callable {name!r}; it defines {', '.join(own) or 'none'}")
    return factory


def _checked(arch: str, factory: Callable[..., Any], dimensions: dict[str, int]) -> nn.Module:
    """Call with the keywords that it takes; run the network once on a zero image and look at what comes out."""
    try:
        accepted = inspect.signature(factory).parameters
        takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted.values())
        net = factory(**{key: value for key, value in dimensions.items() if takes_any or key in accepted})
        shape = (1, dimensions["channels"], dimensions["size"], dimensions["size"])
        output = note(net, torch.zeros(shape)) if isinstance(net, nn.Module) else net
    except Exception as error:
        raise TeacherError(f"{arch}: fails with {dimensions}: {_one_line(error)}") from error
    if not isinstance(net, nn.Module):
        raise TeacherError(f"{arch}: returned {type(net).__name__}, expected a torch.nn.Module")
    if not isinstance(output, torch.Tensor) or output.shape != (1, dimensions["classes"]):
        found = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise TeacherError(f"{arch}: puts out {found} for one image, expected logits (1, {dimensions['classes']})")
    return net


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
