"""Interleaved timing, and the machine's measured peak."""

import time
from collections.abc import Callable

import torch
from torch import nn

from pipeline import nets

__all__ = ["interleaved", "peak_flops"]

_CPU = torch.device("cpu")


def interleaved(steps: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Best seconds of each step over `rounds`, the steps taking turns so that a slow spell hits all of them."""
    for step in steps.values():
        step()
    _wait()
    best = dict.fromkeys(steps, float("inf"))
    for _ in range(rounds):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            _wait()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def _wait() -> None:
    """Until a GPU, where there is one, has done what it was asked."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_flops(dtype: torch.dtype, device: torch.device = _CPU, rounds: int = 5) -> float:
    """The most operations per second that a matrix product or a 3x3 convolution reaches here, with these threads.

    The larger of the two is taken: on some processors a convolution beats the library's matrix product, and a share
    of the smaller one could exceed 100 %.
    """
    side, batch = (8192, 1024) if device.type == "cuda" else (1024, 32)
    square = torch.randn(side, side, device=device, dtype=dtype)
    images = torch.randn(batch, 64, 32, 32, device=device, dtype=dtype).to(memory_format=torch.channels_last)
    conv = nn.Conv2d(64, 64, 3, padding=1, bias=False).to(device, dtype).to(memory_format=torch.channels_last)
    runs: dict[str, Callable[[], object]] = {"matmul": lambda: square @ square, "conv": lambda: conv(images)}
    with torch.no_grad():
        seconds = interleaved(runs, rounds)
        return max(2 * side**3 / seconds["matmul"], nets.flops(conv, images) / seconds["conv"])
