"""Classifiers of torchvision and timm, by name, without their weights: `torchvision:resnet18`, `timm:resnet18`."""

import difflib
import importlib
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn
from torchvision import models

from ..core.errors import ParamsError
from .layers import named, require
from .probe import note

__all__ = ["build"]

_WITHOUT_AUXILIARY = {"aux_logits": False, "init_weights": True}  # one output in training mode too
_OPTIONS: dict[str, Callable[[int], dict[str, Any]]] = {  # by the leading part of the name; from the size
    "vit": lambda size: {"image_size": size},
    "maxvit": lambda size: {"input_size": (size, size)},
    "googlenet": lambda _: _WITHOUT_AUXILIARY,
    "inception": lambda _: _WITHOUT_AUXILIARY,
}


def build(arch: str, classes: int, channels: int, size: int) -> nn.Module:
    """Build `torchvision:NAME` or `timm:NAME` with its own initialisation.

    It is run once, on a zero image, to see that it classifies images of this size and where its blocks are.

    Raises:
        ParamsError: timm is not installed, no such classifier, or one that cannot take images of this size.
    """
    require(arch, classes, channels, size, 1)
    library, _, name = arch.partition(":")
    make = _torchvision if library == "torchvision" else _timm
    try:
        net = make(arch, name, classes, channels, size)
        output = note(net, torch.zeros(1, channels, size, size))
    except (RuntimeError, ValueError, AssertionError, TypeError, IndexError) as error:
        reason = " ".join(str(error).split())
        raise ParamsError(
            f"{arch}: cannot take {channels}x{size}x{size} images: {reason}; try a larger size"
        ) from error
    if not isinstance(output, torch.Tensor) or output.shape != (1, classes):
        shape = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise ParamsError(f"{arch}: puts out {shape} for one image, expected logits of shape (1, {classes})")
    return net


def _torchvision(arch: str, name: str, classes: int, channels: int, size: int) -> nn.Module:
    known = models.list_models(module=models)
    if name not in known:
        other = name in models.list_models()
        raise ParamsError(f"{arch}: not an image classifier" if other else _no_such(arch, name, known))
    options = _OPTIONS.get(name.partition("_")[0], lambda _: {})(size)
    net = models.get_model(name, weights=None, num_classes=classes, **options)
    if channels != 3:
        _adapt(net, arch, channels)
    return net


def _timm(arch: str, name: str, classes: int, channels: int, size: int) -> nn.Module:
    try:
        timm: Any = importlib.import_module("timm")
    except ImportError as error:
        raise ParamsError(f"{arch}: timm is not installed; run `pip install 'photogram[timm]'`") from error
    if not timm.is_model(name):  # also keeps out hub addresses, which would download
        raise ParamsError(_no_such(arch, name, timm.list_models()))
    options = {"img_size": size} if name.startswith(("vit_", "deit")) else {}
    return timm.create_model(name, pretrained=False, num_classes=classes, in_chans=channels, **options)


def _no_such(arch: str, name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=4)
    return f"{arch}: no such classifier" + (f"; near it are {', '.join(near)}" if near else "")


def _adapt(net: nn.Module, arch: str, channels: int) -> None:
    """Replace the first convolution by one that takes `channels`."""
    path, old = next(((p, m) for p, m in named(net).items() if isinstance(m, nn.Conv2d)), ("", None))
    if old is None or old.groups != 1:
        raise ParamsError(f"{arch}: has no first convolution to adapt to {channels} channels; set channels to 3")
    new = nn.Conv2d(
        channels,
        old.out_channels,
        cast(tuple[int, int], old.kernel_size),
        stride=cast(tuple[int, int], old.stride),
        padding=cast(tuple[int, int], old.padding),
        dilation=cast(tuple[int, int], old.dilation),
        bias=old.bias is not None,
    )
    nn.init.kaiming_normal_(new.weight, nonlinearity="relu")
    net.set_submodule(path, new)
