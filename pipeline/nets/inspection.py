"""What can be known about a network that does not say it itself: its head, its blocks, whether it classifies.

Our networks declare `blocks` (names of submodules, in order) and `head` (name of the final linear layer). A foreign
one is run once on a zero image when it is built, and what was seen is noted on it; one that was not built here is
judged by the order of its submodules.
"""

from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from pipeline.nets.common import named

__all__ = ["Points", "note", "points", "probe"]

_NOTE = "afterimage_points"
_BULK = 0.9  # a submodule with more of the parameters than this is looked into, not taken as one block


class Points(NamedTuple):
    """Where losses can take hold."""

    blocks: tuple[str, ...]  # dotted names, in order
    head: str | None  # the linear layer that makes the logits; None: the network does not end in one


def points(net: nn.Module) -> Points:
    """The declared points, else those noted by `note`, else those guessed from the order of submodules."""
    blocks: Any = getattr(net, "blocks", None)
    head: Any = getattr(net, "head", None)
    if isinstance(blocks, tuple) and isinstance(head, str):
        return Points(cast(tuple[str, ...], blocks), head)
    noted = net.__dict__.get(_NOTE)
    if noted is not None:
        return noted
    linear = [name for name, module in named(net).items() if isinstance(module, nn.Linear)]
    last = linear[-1] if linear else None
    return Points(_blocks(net, last), last)


def note(net: nn.Module, images: Tensor) -> Any:
    """Run a foreign network once and note its points on it.

    The head is the linear layer whose output is the network's own output (reshaping aside). Blocks that did not run
    are left out, the others are put in the order in which they ended.

    Args:
        net: any network.
        images: [N, C, H, W].

    Returns:
        What the network put out, in evaluation mode.
    """
    ended: dict[str, Any] = {}
    with ExitStack() as stack:
        for name, module in named(net).items():
            stack.callback(module.register_forward_hook(_log(ended, name)).remove)
        output = probe(net, images)
    heads = [name for name, made in ended.items() if _is_head(net.get_submodule(name), made, output)]
    head = heads[-1] if heads else None
    found = [name for name in ended if name in set(_blocks(net, head))]
    net.__dict__[_NOTE] = Points(tuple(found), head)
    return output


def probe(net: nn.Module, images: Tensor) -> Any:
    """The network's output in evaluation mode, without a graph; every submodule's mode is put back."""
    with _evaluating(net), torch.no_grad():
        return net(images)


@contextmanager
def _evaluating(net: nn.Module) -> Generator[None]:
    modes = [(module, module.training) for module in net.modules()]
    try:
        net.eval()
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _log(ended: dict[str, Any], name: str) -> Callable[[nn.Module, Any, Any], None]:
    def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
        ended.pop(name, None)
        ended[name] = output

    return hook


def _is_head(module: nn.Module, made: Any, output: Any) -> bool:
    if not isinstance(module, nn.Linear) or not isinstance(made, Tensor) or not isinstance(output, Tensor):
        return False
    return made.data_ptr() == output.data_ptr() and made.numel() == output.numel()


def _blocks(net: nn.Module, head: str | None) -> tuple[str, ...]:
    """Walk down to the level where the network is a row of blocks.

    While one child holds nearly all parameters the walk goes into it. The blocks are then the children that have
    children themselves or, in a flat network, its convolutions and linear layers.
    """
    path = ""
    while True:
        sizes = _children(net, path, head)
        composite = {name: size for name, size in sizes.items() if _has_children(net.get_submodule(name))}
        largest = max(composite, key=composite.__getitem__, default="")
        if not largest or composite[largest] <= _BULK * sum(sizes.values()):
            break
        path = largest
    if len(composite) > 1:
        return tuple(composite)
    return tuple(name for name in sizes if name in composite or _is_layer(net.get_submodule(name)))


def _children(net: nn.Module, path: str, head: str | None) -> dict[str, int]:
    """The parameters of each child that has some and does not hold the head.

    Lists of modules are never called, so their members stand for them. Where only the head's holder is left, its
    children stand for it.
    """
    sizes: dict[str, int] = {}
    holder = ""
    for name, child in _members(net.get_submodule(path), path):
        size = sum(parameter.numel() for parameter in child.parameters())
        if head is not None and f"{head}.".startswith(f"{name}."):
            holder = name
        elif size:
            sizes[name] = size
    return sizes if sizes or holder in ("", head) else _children(net, holder, head)


def _members(module: nn.Module, path: str) -> Iterator[tuple[str, nn.Module]]:
    for name, child in module.named_children():
        full = f"{path}.{name}" if path else name
        if type(child) in (nn.ModuleList, nn.ModuleDict):  # a subclass may have a forward of its own
            yield from _members(child, full)
        else:
            yield full, child


def _has_children(module: nn.Module) -> bool:
    return next(module.children(), None) is not None


def _is_layer(module: nn.Module) -> bool:
    weight: Any = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.dim() > 1
