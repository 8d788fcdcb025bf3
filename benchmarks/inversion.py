"""`deepinversion`'s step against a plain loop on the same teacher, in one run: `python -m benchmarks.inversion`."""

import argparse
import copy
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from benchmarks.plain import PlainInversion, stand_in
from benchmarks.timing import interleaved, peak_flops
from pipeline import nets
from pipeline.core.checkpoint import Checkpoint
from pipeline.core.device import Compute
from pipeline.core.params import build
from pipeline.core.rng import generator
from pipeline.methods.deepinversion import Method

__all__ = ["compare", "main"]

_STEPS = 10
_VIEWS = {"crop": 0, "flip": False, "rotate": 0, "translate": 0, "scale": [1, 1], "shear": 0, "cutout": 0}
_VARIANTS = {
    "float32": ("float32", "never"),
    "float32 compiled": ("float32", "always"),
    "bfloat16": ("bfloat16", "never"),
    "bfloat16 compiled": ("bfloat16", "always"),
}


def compare(arch: str, batch: int, device: torch.device, rounds: int = 7) -> dict[str, tuple[float, float]]:
    """Images x steps per second, and the share of the measured peak, of the plain loop and of each variant of ours."""
    net = nets.build(arch, 10, 3, 32, rng=generator(0, "benchmark")).to(device)
    images, labels = torch.randn(batch, 3, 32, 32, device=device), torch.arange(batch, device=device) % 10
    plain = PlainInversion(copy.deepcopy(net), images, labels, 0.05)
    runs: dict[str, Callable[[], object]] = {"plain": lambda: [plain.step() for _ in range(_STEPS)]}
    for name, (precision, compiling) in _VARIANTS.items():
        compute = Compute(device=device.type, precision=precision, channels_last=True, compile=compiling)
        runs[name] = _ours(copy.deepcopy(net), arch, batch, compute)
    # The gradient with respect to the input costs as much as the forward pass; nothing else is needed.
    work = 2 * nets.flops(net.eval(), images) / batch
    seconds = interleaved(runs, rounds)
    peaks = {name: peak_flops(getattr(torch, name), device) for name in ("float32", "bfloat16")}
    rates = {name: batch * _STEPS / seconds[name] for name in runs}
    return {
        name: (rate, rate * work / peaks["bfloat16" if "bfloat16" in name else "float32"])
        for name, rate in rates.items()
    }


def _ours(net: nn.Module, arch: str, batch: int, compute: Compute) -> Callable[[], object]:
    teacher = stand_in(net, arch, 3, 32)
    compute.place(teacher)
    method = build(
        Method,
        {
            "group": batch, "groups": 1, "statistics": 10, "first_layer": 1, "total_variation": 2.5e-5, "l2": 1e-6,
            "views": _VIEWS | {"fill": "zeros"}, "learning_rate": 0.01, "betas": [0.9, 0.999], "warmup": 0,
            "start": {"distribution": "normal", "level": 0.5, "spread": 0.25, "resolution": 32},
            "phases": [{"pool": 1, "steps": _STEPS, "jitter": 2}], "schedule": "constant", "bound": "clamp",
            "keep": "last", "labels": "balanced",
        },
        "deepinversion",
    )  # fmt: skip
    source = method.fit(teacher, generator(0, "fit"), Checkpoint(Path()), compute)
    return lambda: source.draw(batch, generator(0, "draw"), 0)


def main() -> None:
    """Print a line per teacher and variant: rate, ratio to the plain loop, share of the measured peak."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.inversion", description=__doc__)
    parser.add_argument("--cuda", action="store_true", help="ResNet-34 with batches of 256 on a GPU instead")
    arguments, _ = parser.parse_known_args()
    device = torch.device("cuda" if arguments.cuda else "cpu")
    sys.stdout.write(f"{device}, {torch.get_num_threads()} threads; images x steps per second\n")
    for arch, batch in (("resnet34", 256),) if arguments.cuda else (("wrn_16_1", 64), ("resnet20", 64)):
        results = compare(arch, batch, device)
        plain = results["plain"][0]
        for name, (rate, share) in results.items():
            sys.stdout.write(f"{arch}: {name:18s} {rate:8,.0f}  {rate / plain:4.1f} x  {share:4.0%} of peak\n")


if __name__ == "__main__":
    main()
