"""An iteration of the generator methods against plain code, in one run: `python -m benchmarks.adversarial`."""

import argparse
import copy
import sys
from collections.abc import Callable
from itertools import count
from typing import Any

import torch
from torch import nn

from benchmarks.plain import PlainDuel, PlainGenerator, interleaved, plain_layers, stand_in
from pipeline import nets
from pipeline.core.device import Compute
from pipeline.core.params import build
from pipeline.core.rng import generator
from pipeline.methods import load

_ADAM = {
    "optimiser": "adam", "learning_rate": 0.001, "momentum": 0.9, "weight_decay": 0, "schedule": "constant",
    "milestones": [], "decay": 0.1, "clip_norm": None,
}  # fmt: skip
_NEUTRAL = {
    "crop": 0, "flip": False, "rotate": 0, "translate": 0, "scale": [1, 1], "shear": 0, "cutout": 0, "fill": "border",
}  # fmt: skip
_NOISE = 100
_STEPS = {"zskt": 10, "dfad": 5, "dafl": 1}  # student steps of an iteration, as published
_PRECISIONS = ("float32", "bfloat16")


def compare(
    method: str, arch: str, student: str, channels: int, batch: int, device: torch.device, rounds: int
) -> dict[str, float]:
    """Seconds of one iteration of the plain code and of ours in each precision; random weights, 32 pixels."""
    net = nets.build(arch, 10, channels, 32, rng=generator(0, "benchmark"))
    rival = nets.build(student, 10, channels, 32, rng=generator(1, "benchmark"))
    parts = (PlainGenerator(_NOISE, channels, 32), plain_layers(copy.deepcopy(net)), plain_layers(rival))
    plain = PlainDuel(*(part.to(device) for part in parts), noise=_NOISE, batch=batch)
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
    compute.place(teacher)
    opponent = {"arch": student, "updates": _ADAM}
    own: dict[str, dict[str, Any]] = {
        "zskt": {
            "proxy": opponent, "student_steps": _STEPS["zskt"], "fresh": False, "temperature": 1,
            "attention": {"weight": 2500, "blocks": "auto"},
        },
        "dfad": {
            "proxy": opponent, "student_steps": _STEPS["dfad"], "regularisation": None, "interpolation": None,
        },
        "dafl": {"one_hot": 1, "activation": 0.1, "entropy": 5},
    }  # fmt: skip
    shape = {"noise": _NOISE, "widths": [128, 64], "epsilon": 1e-5, "tanh": False, "affine": True}
    block = {
        "generator": shape, "views": _NEUTRAL, "clamp": False, "updates": _ADAM, "batch": batch,
        "epochs": 1, "iterations": 1000, "snapshots": {"states": 1, "since": 0}, "statistics": "eval", **own[method],
    }  # fmt: skip
    game = build(load(method), block, method).game(teacher, 0, compute)
    steps = count()

    def play() -> None:
        with game.watching():
            game.play(next(steps))

    return play


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
