"""Where tensors live and in which precision networks run."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, ParamSpec, TypeVar

import torch
from torch import nn

from pipeline.core.compiling import Compile, compiled, worth_while
from pipeline.core.errors import ParamsError
from pipeline.core.params import Block

__all__ = ["Compute"]

P = ParamSpec("P")
R = TypeVar("R")


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
            function: as in `compiling.compiled`.
            calls: how often one optimisation or training calls it.
            flops: floating-point operations of one call.
            graph: as in `compiling.compiled`.
        """
        device = self.torch_device()
        if self.compile == "never" or (self.compile == "auto" and not worth_while(device, calls, flops)):
            return function
        return compiled(function, device, required=self.compile == "always", graph=graph)

    def place(self, net: nn.Module) -> nn.Module:
        """Move a network to the device and into the memory layout that measured fastest."""
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        return net.to(self.torch_device(), memory_format=layout)  # pyright: ignore[reportCallIssue, reportUnknownVariableType]
