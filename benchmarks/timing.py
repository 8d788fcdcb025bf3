"""Interleaved timing, and the machine's measured peak."""

import time
from collections.abc import Callable

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

__all__ = ["flops", "interleaved", "peak_flops"]


def interleaved(steps: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Best seconds of each step over `rounds`, the steps taking turns so that a slow spell hits all of them."""
    for step in steps.values():
        step()
    best = dict.fromkeys(steps, float("inf"))
    for _ in range(rounds):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def flops(run: Callable[[], object]) -> int:
    """Floating-point operations of matrix products and convolutions in `run`."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def peak_flops(dtype: torch.dtype, rounds: int = 5) -> float:
    """The most operations per second that a matrix product or a 3x3 convolution reaches here, with these threads.

    The larger of the two is taken: on some processors a convolution beats the library's matrix product, and a share
    of the smaller one could exceed 100 %.
    """
    square = torch.randn(1024, 1024).to(dtype)
    images = torch.randn(32, 64, 32, 32).to(dtype).to(memory_format=torch.channels_last)
    conv = nn.Conv2d(64, 64, 3, padding=1, bias=False).to(dtype).to(memory_format=torch.channels_last)
    runs: dict[str, Callable[[], object]] = {"matmul": lambda: square @ square, "conv": lambda: conv(images)}
    with torch.no_grad():
        seconds = interleaved(runs, rounds)
        return max(flops(run) / seconds[name] for name, run in runs.items())
