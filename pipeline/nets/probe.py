"""What can be known about a network that does not say it itself: its head, its blocks, what its layers put out.

Our networks declare `blocks` (names of submodules, in order) and `head` (name of the final linear layer). A foreign
one is run once on a zero image when it is built, and what was seen is noted on it; one that was not built here is
judged by the order of its submodules.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from ..core.errors import TeacherError
from .layers import named

__all__ = [
    "BatchNorm",
    "Points",
    "answer",
    "batch_norms",
    "capture",
    "class_similarity",
    "feature_points",
    "final_linear",
    "flops",
    "has_batch_norm",
    "needs_batches",
    "note",
    "points",
]

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d

_NOTE = "photogram_points"
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
        output = answer(net, images)
    heads = [name for name, made in ended.items() if _is_head(net.get_submodule(name), made, output)]
    head = heads[-1] if heads else None
    found = [name for name in ended if name in set(_blocks(net, head))]
    net.__dict__[_NOTE] = Points(tuple(found), head)
    return output


def answer(net: nn.Module, images: Tensor) -> Any:
    """The network's output in evaluation mode, without a graph; every submodule's mode is put back."""
    with _evaluating(net), torch.no_grad():
        return net(images)


def final_linear(net: nn.Module) -> nn.Linear:
    """The linear layer that makes the logits; weights [K, d].

    Raises:
        TeacherError: the network does not end in one.
    """
    head = points(net).head
    module = None if head is None else named(net).get(head)
    if not isinstance(module, nn.Linear):
        raise TeacherError(
            f"{type(net).__name__} does not end in a linear layer; choose a method that needs none, or declare its "
            "name as the attribute `head` (and the blocks' names as `blocks`) where the network is defined"
        )
    return module


def class_similarity(weight: Tensor) -> Tensor:
    """Class-similarity matrix of the last layer, [K, K] float64: cosines between its rows.

    C(i, j) = w_i . w_j / (|w_i| |w_j|); ZSKD, Nayak et al. (ICML 2019), section 3.2.1. A row of zeros is similar to
    nothing (0), itself included.

    Args:
        weight: [K, d], row k feeding class k's logit.
    """
    rows = normalize(weight.detach().double().cpu(), dim=1)
    return rows @ rows.T


def feature_points(net: nn.Module) -> tuple[str, ...]:
    """Dotted names for `capture`: the blocks before the classifier, in order, then the head, if any."""
    blocks, head = points(net)
    return blocks if head is None else (*blocks, head)


def has_batch_norm(net: nn.Module) -> bool:
    """Whether some layer keeps running statistics of its input, as methods that match them need."""
    return bool(batch_norms(net))


def batch_norms(net: nn.Module) -> list[BatchNorm]:
    """The BatchNorm layers that keep running statistics, in the order in which the network lists them."""
    return [layer for layer in net.modules() if isinstance(layer, BatchNorm) and layer.running_mean is not None]


def needs_batches(net: nn.Module, images: Tensor) -> bool:
    """Whether some BatchNorm would see one value per channel if it were trained on one of these images at a time.

    That is an error in training: such a network needs at least two images in a batch.

    Args:
        net: any network.
        images: [N, C, H, W] of the size that it will be trained on; one is looked at.
    """
    found: list[bool] = []

    def look(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
        found.append(inputs[0].numel() == inputs[0].shape[1])

    with ExitStack() as stack:
        for module in net.modules():
            if isinstance(module, BatchNorm):
                stack.callback(module.register_forward_pre_hook(look).remove)
        answer(net, images[:1])
    return any(found)


def flops(net: nn.Module, images: torch.Tensor) -> int:
    """Floating-point operations of the convolutions and linear layers of one forward pass on [N, C, H, W].

    Counted by hooks: torch's own counter loads the whole compiler, seconds of a core in every process. What a network
    computes by functions and not by modules, such as products of activations, is left out.
    """
    found: list[int] = []

    def count(module: nn.Module, _inputs: Any, output: Any) -> None:
        weight: Any = module.weight
        found.append(2 * output.numel() * weight[0].numel())

    with ExitStack() as stack:
        for module in net.modules():
            if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
                stack.callback(module.register_forward_hook(count).remove)
        with torch.no_grad():
            net(images)
    return sum(found)


@contextmanager
def capture(net: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Keep what submodules put out at each forward pass.

    The tensors are the live ones, with their graph: a loss on them reaches the image. A later pass replaces them;
    a submodule that is used twice in one pass leaves its last output. The hooks are gone when the block ends,
    however it ends.

    Args:
        net: any network.
        names: dotted names of submodules, such as `pipeline.nets.feature_points` gives.

    Yields:
        A dict that each forward pass fills, name to output.

    Raises:
        TeacherError: there is no submodule of that name.
    """
    outputs: dict[str, Tensor] = {}
    modules = named(net)
    missing = [name for name in names if name not in modules]
    if missing:
        children = ", ".join(name for name, _ in net.named_children())
        raise TeacherError(f"no submodule {missing[0]!r} in {type(net).__name__}; at the top level it has {children}")
    with ExitStack() as stack:
        for name in names:
            stack.callback(modules[name].register_forward_hook(_keep(outputs, name)).remove)
        yield outputs


@contextmanager
def _evaluating(net: nn.Module) -> Iterator[None]:
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


def _keep(outputs: dict[str, Tensor], name: str) -> Callable[[nn.Module, Any, Tensor], None]:
    def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        outputs[name] = output

    return hook
