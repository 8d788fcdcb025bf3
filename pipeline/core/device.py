"""Where tensors live, in which precision networks run, and which steps are compiled."""

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, ParamSpec, TypeVar

import torch
from torch import nn

from .errors import ParamsError
from .params import Block

__all__ = ["Compile", "Compute", "compiled", "worth_while"]

P = ParamSpec("P")
R = TypeVar("R")
Compile = Literal["auto", "always", "never"]

_WORTH_FLOPS = 2e12  # on a CPU
_WORTH_CALLS = 500  # on a GPU


class Compute(Block):
    """The `compute` block: device, precision and layout of every stage."""

    device: Literal["auto", "cpu", "cuda"]
    precision: Literal["float32", "bfloat16"]
    channels_last: bool
    compile: Compile

    def torch_device(self) -> torch.device:
        """The device to use; ``auto`` is CUDA where there is one.

        Raises:
            ParamsError: ``cuda`` is asked for and not there.
        """
        available = torch.cuda.is_available()
        if self.device == "cuda" and not available:
            raise ParamsError("compute.device: 'cuda', but torch sees no CUDA device; use auto or cpu")
        return torch.device("cuda" if available and self.device != "cpu" else "cpu")

    def autocast(self) -> AbstractContextManager[object]:
        """bfloat16 autocast, or nothing for float32."""
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(self.torch_device().type, dtype=torch.bfloat16)

    def compiled(self, function: Callable[P, R], *, calls: int, flops: float, graph: bool = False) -> Callable[P, R]:
        """The function, compiled where `compile` says so or, under ``auto``, where so many calls are worth it.

        Args:
            function: as in the function `compiled`.
            calls: how often one optimisation or training calls it.
            flops: floating-point operations of one call.
            graph: as in the function `compiled`.
        """
        device = self.torch_device()
        if self.compile == "never" or (self.compile == "auto" and not worth_while(device, calls, flops)):
            return function
        return compiled(function, device, required=self.compile == "always", graph=graph)

    def place(self, net: nn.Module) -> nn.Module:
        """Move a network to the device and into the memory layout that measured fastest."""
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        return net.to(self.torch_device(), memory_format=layout)  # pyright: ignore[reportCallIssue, reportUnknownVariableType]


def worth_while(device: torch.device, calls: int, flops: float) -> bool:
    """Whether a function that is called so often is worth compiling.

    A pure function of what is to be computed and never of how much of it is left, so that a resumed or enlarged
    dataset is made with the same arithmetic. On a CPU compiling takes 10 to 30 seconds and saves about a third of the
    time, so the whole run must last minutes: 2e12 floating-point operations in one optimisation, of which a dataset
    has many. On a GPU it saves the launches of hundreds of small kernels, so the number of calls decides.

    Args:
        device: where the function runs.
        calls: how often one optimisation or training calls it.
        flops: floating-point operations of one call.
    """
    return calls >= _WORTH_CALLS if device.type == "cuda" else calls * flops >= _WORTH_FLOPS


def compiled(function: Callable[P, R], device: torch.device, *, required: bool, graph: bool) -> Callable[P, R]:
    """The function, compiled at its first call for the shapes it gets.

    Args:
        function: of tensors; whatever else it reads must stay as it is.
        device: where it runs.
        required: whether a failure to compile is an error; else a warning, and the function runs as it is.
        graph: on a GPU, record it as a CUDA graph. Its results are then overwritten by the next call, so nothing else
            that is compiled so may run between a call and the last use of what it returned.
    """
    # Shapes are few and each runs thousands of times: one exact program for each, never a general one for all.
    graph = graph and device.type == "cuda"
    mode = "reduce-overhead" if graph else "default"
    quick: Callable[P, R] | None = torch.compile(function, dynamic=False, mode=mode)
    proven = False

    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        nonlocal quick, proven
        if quick is None:
            return function(*args, **kwargs)
        try:
            if graph:
                torch.compiler.cudagraph_mark_step_begin()
            result = quick(*args, **kwargs)
        except Exception as error:
            if proven or not _compiler_failed(error):
                raise
            reason = _reason(error)
            if required:
                raise ParamsError(f"compute.compile: 'always', but compiling failed ({reason}); use never") from error
            sys.stderr.write(f"warning: compiling failed ({reason}); going on without\n")
            quick = None
            return function(*args, **kwargs)
        proven = True
        return result

    return call


def _compiler_failed(error: Exception) -> bool:
    from torch._dynamo.exc import TorchDynamoException  # imported by now: the compiler has run

    return isinstance(error, TorchDynamoException)


def _reason(error: Exception) -> str:
    """The first line of what the compiler itself said; some errors only wrap it, and start with the wrapper's name."""
    inner = getattr(error, "inner_exception", error)
    return next(iter(str(inner).splitlines()), type(inner).__name__)
