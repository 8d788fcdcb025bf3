"""Steps of the pixel methods against plain loops on the same teacher, in one run: `python -m benchmarks.pixels`."""

import argparse
import copy
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.plain import PlainInversion, PlainLoop, interleaved, peak_flops, plain_layers, stand_in
from pipeline import nets
from pipeline.classifier import Teacher
from pipeline.core.checkpoint import Checkpoint
from pipeline.core.device import Compute
from pipeline.core.params import build
from pipeline.core.rng import stream
from pipeline.losses.logits import softened_cross_entropy
from pipeline.methods.deepinversion import Method
from pipeline.optimise.pixels import Adam, descend, quick
from pipeline.optimise.source import Run

_STEPS, _ROUNDS = 10, 7
_TEMPERATURE, _RATE = 20.0, 0.05
_VARIANTS = {
    "float32": ("float32", "never"),
    "float32 compiled": ("float32", "always"),
    "bfloat16": ("bfloat16", "never"),
    "bfloat16 compiled": ("bfloat16", "always"),
}


def impressions(arch: str, channels: int, batch: int, *, channels_last: bool) -> dict[str, tuple[float, float]]:
    """`zskd`'s loop on a random teacher of 32 pixels, as `rates` gives it; the plain loop has 100 images."""
    net = nets.build(arch, 10, channels, 32, rng=stream(0, "benchmark"))

    def start(count: int) -> tuple[Tensor, Tensor]:
        return torch.rand(count, channels, 32, 32), torch.randn(count, 10).softmax(1)

    teacher = stand_in(plain_layers(copy.deepcopy(net)), arch, channels, 32)
    plain = PlainLoop(teacher, *start(100), _TEMPERATURE, _RATE)
    runs: dict[str, Callable[[], object]] = {"plain": lambda: [plain.step() for _ in range(_STEPS)]}
    images, targets = start(batch)
    for name in ("float32", "bfloat16", "bfloat16 compiled"):
        compute = _compute(name, torch.device("cpu"), channels_last)
        runs[name] = _descent(stand_in(copy.deepcopy(net), arch, channels, 32), images, targets, compute)
    return rates(runs, net, images, {"plain": 100})


def inversion(arch: str, batch: int, device: torch.device) -> dict[str, tuple[float, float]]:
    """`deepinversion` itself on a random teacher of 32 pixels, as `rates` gives it."""
    net = nets.build(arch, 10, 3, 32, rng=stream(0, "benchmark")).to(device)
    images, labels = torch.randn(batch, 3, 32, 32, device=device), torch.arange(batch, device=device) % 10
    plain = PlainInversion(copy.deepcopy(net), images, labels, _RATE)
    runs: dict[str, Callable[[], object]] = {"plain": lambda: [plain.step() for _ in range(_STEPS)]}
    for name in _VARIANTS:
        teacher = stand_in(copy.deepcopy(net), arch, 3, 32)
        runs[name] = _draw(teacher, batch, _compute(name, device, channels_last=True))
    return rates(runs, net.eval(), images, {})


def rates(
    runs: dict[str, Callable[[], object]], net: nn.Module, images: Tensor, batches: dict[str, int]
) -> dict[str, tuple[float, float]]:
    """Images x steps per second of each run, and their share of the measured peak; `batches` that are other sizes."""
    # The gradient with respect to the input costs as much as the forward pass; nothing else is needed.
    work = 2 * nets.flops(net, images) / len(images)
    peaks = {name: peak_flops(getattr(torch, name), images.device) for name in ("float32", "bfloat16")}
    found = {}
    for name, seconds in interleaved(runs, _ROUNDS).items():
        rate = batches.get(name, len(images)) * _STEPS / seconds
        found[name] = (rate, rate * work / peaks["bfloat16" if "bfloat16" in name else "float32"])
    return found


def _compute(variant: str, device: torch.device, channels_last: bool) -> Compute:
    precision, compiling = _VARIANTS[variant]
    return Compute(device=device.type, precision=precision, channels_last=channels_last, compile=compiling)


def _descent(teacher: Teacher, images: Tensor, targets: Tensor, compute: Compute) -> Callable[[], object]:
    compute.place(teacher.freeze())
    losses = quick(
        lambda view: softened_cross_entropy(teacher(view), targets, _TEMPERATURE),
        teacher, images.shape, _STEPS, compute,
    )  # fmt: skip
    return lambda: descend(images, losses, steps=_STEPS, adam=Adam(_RATE), bound="clamp", compute=compute)


def _draw(teacher: Teacher, batch: int, compute: Compute) -> Callable[[], object]:
    compute.place(teacher.freeze())
    method = build(
        Method,
        {
            "group": batch, "groups": 1, "bn": 10, "first_layer": 1, "total_variation": 2.5e-5, "l2": 1e-6,
            "augment": None, "learning_rate": 0.01, "betas": [0.9, 0.999], "warmup": 0,
            "init": {"distribution": "normal", "mean": 0.5, "std": 0.25, "resolution": 32},
            "phases": [{"pool": 1, "steps": _STEPS, "jitter": 2}], "schedule": "constant", "bound": "clamp",
            "keep": "last", "labels": "balanced",
        },
        "deepinversion",
    )  # fmt: skip
    source = method.fit(Run(teacher, stream(0, "fit"), Checkpoint(Path()), compute))
    return lambda: source.draw(batch, stream(0, "draw"))


def main() -> None:
    """Print a line per method, teacher and variant: rate, ratio to the plain loop, share of the measured peak."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pixels", description=__doc__)
    parser.add_argument("--cuda", action="store_true", help="ResNet-34 with batches of 256 on a GPU instead")
    device = torch.device("cuda" if parser.parse_args().cuda else "cpu")
    sys.stdout.write(f"{device}, {torch.get_num_threads()} threads; images x steps per second\n")
    if device.type == "cuda":
        _print("deepinversion resnet34", inversion("resnet34", 256, device))
        return
    # Each in the memory layout that is faster for it.
    _print("zskd lenet5", impressions("lenet5", 1, 50, channels_last=False))
    _print("zskd resnet20", impressions("resnet20", 3, 100, channels_last=True))
    for arch in ("wrn_16_1", "resnet20"):
        _print(f"deepinversion {arch}", inversion(arch, 64, device))


def _print(title: str, results: dict[str, tuple[float, float]]) -> None:
    plain = results["plain"][0]
    for name, (rate, share) in results.items():
        sys.stdout.write(f"{title}: {name:18s} {rate:8,.0f}  {rate / plain:4.1f} x  {share:4.0%} of peak\n")


if __name__ == "__main__":
    main()
