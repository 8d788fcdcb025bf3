"""Intermediate outputs of a network, by name."""

from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from pipeline.core.errors import TeacherError
from pipeline.nets.common import named

__all__ = ["capture"]


@contextmanager
def capture(net: nn.Module, names: Sequence[str]) -> Generator[dict[str, Tensor]]:
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


def _keep(outputs: dict[str, Tensor], name: str) -> Callable[[nn.Module, Any, Tensor], None]:
    def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        outputs[name] = output

    return hook
