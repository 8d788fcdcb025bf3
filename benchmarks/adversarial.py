"""An iteration of the generator methods against plain code, in one run: `python -m benchmarks.adversarial`."""

import argparse
import copy
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.plain import PlainDuel, PlainGenerator, interleaved, plain_layers, stand_in
from pipeline import nets
from pipeline.core.checkpoint import Checkpoint
from pipeline.core.device import Compute
from pipeline.core.params import build
from pipeline.core.rng import stream
from pipeline.methods import load
from pipeline.optimise.source import Run

_ADAM = {"name": "adam", "learning_rate": 0.001, "momentum": 0.9, "schedule": "constant"}
_LATENT_DIM = 100
_STEPS = {"zskt": 10, "dfad": 5, "dafl": 1}  # student steps of an iteration, as published
_PRECISIONS = ("float32", "bfloat16")


def compare(
    method: str, arch: str, student: str, channels: int, batch: int, device: torch.device, rounds: int
) -> dict[str, float]:
    """Seconds of one iteration of the plain code and of ours in each precision; random weights, 32 pixels."""
    net = nets.build(arch, 10, channels, 32, rng=stream(0, "benchmark"))
    proxy = nets.build(student, 10, channels, 32, rng=stream(1, "benchmark"))
    parts = (PlainGenerator(_LATENT_DIM, channels, 32), plain_layers(copy.deepcopy(net)), plain_layers(proxy))
    plain = PlainDuel(*(part.to(device) for part in parts), noise=_LATENT_DIM, batch=batch)
    runs: dict[str, Callable[[], object]] = {
        "plain": {
            "zskt": lambda: plain.zskt(_STEPS["zskt"]), "dfad": lambda: plain.dfad(_STEPS["dfad"]), "dafl": plain.dafl,
        }[method]
    }  # fmt: skip
    for precision in _PRECISIONS:
        compute = Compute(device=device.type, precision=precision, channels_last=True, compile="never")
        runs[precision] = _ours(method, copy.deepcopy(net), arch, student, channels, batch, compute)
    return interleaved(runs, rounds)


def _ours(
    method: str, net: nn.Module, arch: str, student: str, channels: int, batch: int, compute: Compute
) -> Callable[[], object]:
    teacher = stand_in(net, arch, channels, 32)
    compute.place(teacher.freeze())
    proxy = {"arch": student, "optimizer": _ADAM}
    attention = {"attention": {"weight": 2500, "blocks": "auto"}}
    own: dict[str, dict[str, Any]] = {
        "zskt": {
            "proxy": proxy | {"loss": {"kl": {"temperature": 1}}, "terms": attention},
            "student_steps": _STEPS["zskt"], "fresh": False,
        },
        "dfad": {
            "proxy": proxy | {"loss": {"l1": {}}}, "student_steps": _STEPS["dfad"], "terms_reach_generator": False,
        },
        "dafl": {"one_hot": 1, "activation": 0.1, "entropy": 5, "features": "head"},
    }  # fmt: skip
    shape = {"latent_dim": _LATENT_DIM, "widths": [128, 64], "epsilon": 1e-5, "tanh": False, "affine": True}
    block = {
        "generator": shape, "augment": None, "clamp": False, "optimizer": _ADAM, "batch": batch,
        "epochs": 1, "iterations": 1000, "snapshots": {"states": 1, "since": 0}, "bn_mode": "eval", **own[method],
    }  # fmt: skip
    step = build(load(method), block, method).start(Run(teacher, stream(0, "fit"), Checkpoint(Path()), compute), 0)
    numbers = count()

    def run() -> None:
        with step.hooks():
            step(next(numbers))

    return run


def main() -> None:
    """Print a line per method, teacher and precision: milliseconds of an iteration, ratio to the plain code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.adversarial", description=__doc__)
    parser.add_argument("--cuda", action="store_true", help="batches of 128 on a GPU instead")
    arguments = parser.parse_args()
    device = torch.device("cuda" if arguments.cuda else "cpu")
    sys.stdout.write(f"{device}, {torch.get_num_threads()} threads; milliseconds of an iteration\n")
    batch = 128 if arguments.cuda else 32
    for arch, student, channels in (("wrn_16_2", "wrn_16_1", 3), ("lenet5", "lenet5_half", 1)):
        for method in _STEPS:
            seconds = compare(method, arch, student, channels, batch, device, rounds=5)
            for name, value in seconds.items():
                line = f"{method} {arch}: {name:9s} {value * 1000:8,.0f}  {seconds['plain'] / value:4.1f} x\n"
                sys.stdout.write(line)


if __name__ == "__main__":
    main()
