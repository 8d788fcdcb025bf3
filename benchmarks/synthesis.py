"""`zskd`'s step against a plain loop on the same teacher, in one run: `python -m benchmarks.synthesis`."""

import copy
import sys

import torch

from benchmarks.plain import PlainLoop, plain_layers, stand_in
from benchmarks.timing import interleaved, peak_flops
from pipeline import nets
from pipeline.core.device import Compute
from pipeline.synthesis.descend import Adam, descend, quick
from pipeline.synthesis.losses import softened_cross_entropy

__all__ = ["compare", "main"]

_STEPS = 10
_ROUNDS = 7
_VARIANTS = {
    "float32": ("float32", "never"),
    "bfloat16": ("bfloat16", "never"),
    "bfloat16 compiled": ("bfloat16", "always"),
}
_TEMPERATURE, _RATE = 20.0, 0.05


def compare(
    arch: str, channels: int, size: int, batch: int, plain_batch: int, *, channels_last: bool
) -> dict[str, float]:
    """Images x steps per second of both loops on a randomly initialised teacher, and the share of the peak."""
    torch.manual_seed(0)
    net = nets.build(arch, 10, channels, size)
    plain_teacher = stand_in(plain_layers(copy.deepcopy(net)), arch, channels, size).requires_grad_(requires_grad=True)
    images, targets = torch.rand(batch, channels, size, size), torch.randn(batch, 10).softmax(1)
    plain_images, plain_targets = torch.rand(plain_batch, channels, size, size), torch.randn(plain_batch, 10).softmax(1)
    plain = PlainLoop(plain_teacher, plain_images, plain_targets, _TEMPERATURE, _RATE)
    rates: dict[str, float] = {}
    peak = {name: peak_flops(getattr(torch, name)) for name in ("float32", "bfloat16")}
    runs = {"plain": lambda: [plain.step() for _ in range(_STEPS)]}
    for name, (precision, compiling) in _VARIANTS.items():
        compute = Compute(device="cpu", precision=precision, channels_last=channels_last, compile=compiling)
        runs[name] = _ours(stand_in(copy.deepcopy(net), arch, channels, size), images, targets, compute)
    seconds = interleaved(runs, _ROUNDS)
    for name in runs:
        rates[name] = (plain_batch if name == "plain" else batch) * _STEPS / seconds[name]
    # The gradient with respect to the input costs as much as the forward pass; nothing else is needed of the teacher.
    work = 2 * nets.flops(net, images) / batch
    for name, (precision, _) in _VARIANTS.items():
        rates[f"{name} share of peak"] = rates[name] * work / peak[precision]
    return rates


def _ours(teacher, images, targets, compute):
    compute.place(teacher)
    losses = quick(
        lambda view: softened_cross_entropy(teacher(view), targets, _TEMPERATURE),
        teacher,
        images.shape,
        _STEPS,
        compute,
    )
    return lambda: descend(
        images, losses,
        steps=_STEPS, adam=Adam(_RATE), bound="clamp", compute=compute,
    )  # fmt: skip


def main() -> None:
    """Print a line per teacher: rates, ratios and shares of the measured peak."""
    sys.stdout.write(f"{torch.get_num_threads()} threads; images x steps per second\n")
    # Each in the memory layout that is faster for it.
    for arch, channels, size, batch, layout in (("lenet5", 1, 32, 50, False), ("resnet20", 3, 32, 100, True)):
        r = compare(arch, channels, size, batch, plain_batch=100, channels_last=layout)
        parts = [
            f"{name} {r[name]:,.0f} ({r[name] / r['plain']:.1f} x, {r[f'{name} share of peak']:.0%} of peak)"
            for name in _VARIANTS
        ]
        sys.stdout.write(f"{arch}: plain {r['plain']:,.0f}; {'; '.join(parts)}\n")


if __name__ == "__main__":
    main()
