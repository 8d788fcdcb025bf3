"""Architectures by name; the leading letters of a name are the file in this folder that builds it.

`resnet20` is built by resnet.py, `wrn_16_1` by wrn.py. Such a file has `NAMES`, the names to show in messages, and
`build(arch, classes, channels, size)`. A new file is found without being listed anywhere. Names with a colon come
from elsewhere: `torchvision:NAME`, `timm:NAME`, and `python:PATH:CALLABLE` for a file of the user's own.

Networks take normalised images [N, C, H, W] and return raw logits [N, K].
"""

import importlib
import pkgutil
import re
from types import ModuleType

import torch
from torch import nn

from ..core.errors import ParamsError
from .layers import drawing_from
from .probe import BatchNorm, batch_norms, feature_points, final_linear, flops, has_batch_norm

__all__ = [
    "BatchNorm",
    "batch_norms",
    "build",
    "feature_points",
    "final_linear",
    "flops",
    "has_batch_norm",
    "module_of",
    "names",
]

_ELSEWHERE = {"torchvision": "external", "timm": "external", "python": "userfile"}
_FORMS = ("torchvision:NAME", "timm:NAME", "python:PATH:CALLABLE")


def build(
    arch: str,
    classes: int,
    channels: int,
    size: int,
    trust: tuple[str, ...] = (),
    rng: torch.Generator | None = None,
) -> nn.Module:
    """Build a network with fresh weights, on the CPU, in training mode.

    Args:
        arch: a name as in `names`.
        classes: number of logits K.
        channels: number of image channels C.
        size: height and width of the images, in pixels.
        trust: sha256 of user Python files whose code may run.
        rng: where the weights are drawn from. Without one they follow torch's global generator, for networks whose
            weights are about to be loaded. The global state is left as it was found, either way.

    Raises:
        ParamsError: no such architecture, or one that does not fit these dimensions.
        TeacherError: a user's file that is not trusted, or does not make a network.
    """
    module = importlib.import_module(module_of(arch))
    with drawing_from(rng):
        if arch.startswith("python:"):
            return module.build(arch, classes, channels, size, trust)
        return module.build(arch, classes, channels, size)


def module_of(arch: str) -> str:
    """The full name of the module that builds this architecture.

    Raises:
        ParamsError: there is none.
    """
    prefix, colon, _ = arch.partition(":")
    letters = re.match(r"[a-z]+", arch)
    if colon and prefix in _ELSEWHERE:
        return f"{__name__}.{_ELSEWHERE[prefix]}"
    if not colon and letters and letters[0] in _files() and hasattr(_member(letters[0]), "NAMES"):
        return f"{__name__}.{letters[0]}"
    raise ParamsError(f"{arch}: no such architecture; there are {', '.join(names())}")


def names() -> tuple[str, ...]:
    """What is known: the names each file lists, then the forms of names from elsewhere."""
    own = [name for file in _files() for name in getattr(_member(file), "NAMES", ())]
    return (*own, *_FORMS)


def _files() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def _member(name: str) -> ModuleType:
    return importlib.import_module(f"{__name__}.{name}")
