"""What the files here share: the check of a build's arguments, initial weights, submodules by name."""

from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import nn

from pipeline.core.errors import ParamsError

__all__ = ["drawing_from", "he", "named", "require", "unknown"]


def require(arch: str, classes: int, channels: int, size: int, smallest: int) -> None:
    """Check the arguments of a `build`.

    Args:
        arch: the architecture's name, for the message.
        classes: at least 2.
        channels: at least 1.
        size: height and width in pixels, at least `smallest`.
        smallest: the least size that this architecture can take.

    Raises:
        ParamsError: one of them is too small; the message names the least value.
    """
    for name, value, least in (("classes", classes, 2), ("channels", channels, 1), ("size", size, smallest)):
        if value < least:
            raise ParamsError(f"{arch}: {name} is {value}, needs at least {least}")


def unknown(arch: str, names: tuple[str, ...]) -> ParamsError:
    """The error for a name that an architecture file does not know."""
    return ParamsError(f"{arch}: no such architecture; there are {', '.join(names)}")


def he(net: nn.Module) -> None:
    """Initialise in place as He et al. (2015, arXiv 1502.01852, eq. 10): N(0, 2 / fan_in), biases zero.

    The fan is the number of inputs (of a depthwise convolution: of its one channel), so that activations keep
    their scale going forward. Normalisation layers start at weight 1 and bias 0, as their constructors leave them.
    """
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def named(net: nn.Module) -> dict[str, nn.Module]:
    """Every submodule by its dotted name, the network itself under the empty name, in the order of registration."""
    return dict(net.named_modules())  # pyright: ignore[reportUnknownArgumentType] - torch leaves it half typed


@contextmanager
def drawing_from(rng: torch.Generator | None) -> Generator[None]:
    """Constructors draw from the global generator: lend it a seed of `rng`, and put its state back afterwards."""
    state = torch.get_rng_state()
    try:
        if rng is not None:
            torch.default_generator.manual_seed(int(torch.randint(0, 2**32, (), generator=rng)))
        yield
    finally:
        torch.set_rng_state(state)
