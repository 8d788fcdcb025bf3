"""Adversarial belief matching in two dimensions: `python -m benchmarks.toy` draws it and measures it.

After the toy experiment of Micaelli & Storkey (2019), section 4.1: there is no generator, the pseudo points themselves
take the steps that maximise KL(teacher || student). The problem, the networks and the settings are our own.
"""

import argparse
import copy
import math
import statistics
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.plane import SPAN, Panel, animation, boundaries, crowd, grid, regions, strip
from pipeline import transfer
from pipeline.core.errors import run_or_exit
from pipeline.core.files import write_atomic
from pipeline.core.rng import generator, numpy_generator

__all__ = ["Frame", "Motion", "agreement", "fit", "main", "pictures", "play", "spirals"]

Motion = Literal["wander", "stay", "anew"]

_CLASSES, _PER_CLASS = 3, 150
_TURNS, _REACH, _NOISE = 0.9, 1.2, 0.04  # of a spiral's arm; the last two in units of the plane
_TEACHER_WIDTH, _TEACHER_STEPS, _TEACHER_RATE, _TEACHER_DECAY = 64, 800, 0.01, 1e-3
_STUDENT_WIDTH = 32
_POINTS, _OUTSIDE = 120, (1.38, 1.46)  # pseudo points, and how far from the middle they start
_ROUNDS, _STUDENT_STEPS = 300, 10  # a round is one step of the points, then ten of the student, as in the paper
_POINT_RATE, _STUDENT_RATE = 0.05, 0.005  # of Adam
_SEEDS = 5
_GRID = 101  # places along each axis at which agreement is measured

_PANEL, _GIF_PANEL = 232, 320  # pixels
_MOMENTS = (0, 1 / 30, 1 / 12, 1 / 6, 1)  # of the game, in the strip
_GIF_FRAMES, _GIF_PACE, _GIF_MILLISECONDS = 40, 1.7, 120  # frames are closer together where more happens: early


class Frame(NamedTuple):
    """The game after a round."""

    number: int
    points: Tensor  # [N, 2]
    student: nn.Module


def spirals(seed: int) -> tuple[Tensor, Tensor]:
    """Three interleaved arms: points [N, 2] float32, classes [N] int64."""
    rng = numpy_generator(generator(seed, "toy/data"))
    labels = np.repeat(np.arange(_CLASSES), _PER_CLASS)
    along = np.sqrt(rng.uniform(0.02, 1, len(labels)))
    angle = 2 * np.pi * (labels / _CLASSES + _TURNS * along)
    points = _REACH * along[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    points += rng.normal(0, _NOISE, points.shape)
    return torch.from_numpy(points).float(), torch.from_numpy(labels)


def fit(points: Tensor, labels: Tensor, seed: int) -> nn.Module:
    """The teacher of points [N, 2] and classes [N]; its parameters collect no gradients."""
    net = _network(_TEACHER_WIDTH, generator(seed, "toy/teacher"))
    adam = torch.optim.AdamW(net.parameters(), lr=_TEACHER_RATE, weight_decay=_TEACHER_DECAY)
    for _ in range(_TEACHER_STEPS):
        cross_entropy(net(points), labels).backward()
        adam.step()
        adam.zero_grad()
    return net.requires_grad_(requires_grad=False)


def play(teacher: nn.Module, seed: int, motion: Motion, rounds: int, keep: Collection[int]) -> list[Frame]:
    """Points and student move in turns, up and down the same KL(teacher || student) at temperature 1.

    Args:
        teacher: frozen, takes [N, 2].
        seed: of the student's weights and of the places where the points start, the same for every motion.
        motion: "wander" is the method; two controls: "stay" leaves the points where they start, "anew" strews them
            evenly over the plane in every round, which only a space as small as this one allows.
        rounds: how many.
        keep: the rounds to return; 0 is the start.
    """
    rng = generator(seed, "toy/points")
    points = _ring(rng).requires_grad_()
    student = _network(_STUDENT_WIDTH, generator(seed, "toy/student"))
    ascent = torch.optim.Adam([points], lr=_POINT_RATE, maximize=True)
    descent = torch.optim.Adam(student.parameters(), lr=_STUDENT_RATE)
    frames = [Frame(0, points.detach().clone(), copy.deepcopy(student))] if 0 in keep else []
    for number in range(1, rounds + 1):
        if motion == "wander":
            _climb(points, student, teacher, ascent)
        elif motion == "anew":
            points.detach().uniform_(-SPAN, SPAN, generator=rng)
        _learn(points.detach(), student, teacher, descent)
        if number in keep:
            frames.append(Frame(number, points.detach().clone(), copy.deepcopy(student)))
    return frames


def agreement(student: nn.Module, teacher: nn.Module, points: Tensor) -> float:
    """The share of points [N, 2] that both put into the same class, in %."""
    with torch.no_grad():
        return 100 * float(transfer.agreement(student(points), teacher(points)))


def pictures(seed: int, rounds: int) -> tuple[bytes, bytes]:
    """The game as a PNG, six panels in a row, and as a GIF."""
    data = spirals(seed)
    teacher = fit(*data, seed)
    still = [round(rounds * moment) for moment in _MOMENTS]
    moving = [math.ceil(rounds * (index / (_GIF_FRAMES - 1)) ** _GIF_PACE) for index in range(_GIF_FRAMES)]
    frames = {frame.number: frame for frame in play(teacher, seed, "wander", rounds, {*still, *moving})}
    ground, larger = regions(teacher, _PANEL), regions(teacher, _GIF_PANEL)
    first = Panel(crowd(ground, *data, radius=_PANEL / 90), "teacher", "its data")
    png = strip([first, *(_panel(ground, frames[number], teacher) for number in still)])
    return png, animation([_panel(larger, frames[number], teacher) for number in moving], _GIF_MILLISECONDS)


def _panel(ground: Image.Image, frame: Frame, teacher: nn.Module) -> Panel:
    picture = crowd(boundaries(ground, frame.student), frame.points, None, radius=ground.width / 62)
    return Panel(picture, f"student, {frame.number}", f"{agreement(frame.student, teacher, grid(_GRID)):.1f} %")


def _network(width: int, rng: torch.Generator) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in ((2, width), (width, width), (width, _CLASSES)):
        layer = cast(nn.Linear, nn.utils.skip_init(nn.Linear, inputs, outputs))  # no global randomness
        nn.init.xavier_normal_(layer.weight, gain=nn.init.calculate_gain("tanh"), generator=rng)
        nn.init.normal_(layer.bias, std=0.5, generator=rng)  # kinks all over the plane, not only in its middle
        layers += [layer, nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def _ring(rng: torch.Generator) -> Tensor:
    """Places [N, 2] around the data, none among them."""
    turn, share = torch.rand(2, _POINTS, generator=rng)
    radius = _OUTSIDE[0] + (_OUTSIDE[1] - _OUTSIDE[0]) * share
    return torch.stack([radius * torch.cos(2 * torch.pi * turn), radius * torch.sin(2 * torch.pi * turn)], dim=1)


def _climb(points: Tensor, student: nn.Module, teacher: nn.Module, ascent: torch.optim.Optimizer) -> None:
    """One step of the points to where the two disagree more, within the plane that is drawn."""
    (points.grad,) = torch.autograd.grad(transfer.kl(student(points), teacher(points), 1.0), points)
    ascent.step()
    points.detach().clamp_(-SPAN, SPAN)


def _learn(points: Tensor, student: nn.Module, teacher: nn.Module, descent: torch.optim.Optimizer) -> None:
    beliefs = teacher(points)
    for _ in range(_STUDENT_STEPS):
        descent.zero_grad()
        transfer.kl(student(points), beliefs, 1.0).backward()
        descent.step()


def _measure(seeds: Sequence[int]) -> str:
    """A line per motion: agreement at the start and the end, mean and sample standard deviation over the seeds."""
    everywhere = grid(_GRID)
    shares: dict[Motion, list[tuple[float, float, float]]] = {"wander": [], "stay": [], "anew": []}
    for seed in seeds:
        data = spirals(seed)
        teacher = fit(*data, seed)
        for motion, rows in shares.items():
            start, end = (frame.student for frame in play(teacher, seed, motion, _ROUNDS, (0, _ROUNDS)))
            rows.append(
                (
                    agreement(start, teacher, everywhere),
                    agreement(end, teacher, everywhere),
                    agreement(end, teacher, data[0]),
                )
            )
    lines = [f"agreement in %, seeds {', '.join(map(str, seeds))}, {_ROUNDS} rounds"]
    lines.append(f"{'points':8s}{'plane, start':>16s}{'plane, end':>16s}{'data, end':>16s}")
    for motion, rows in shares.items():
        cells = [
            f"{statistics.mean(column):.2f} ± {statistics.stdev(column):.2f}" for column in zip(*rows, strict=True)
        ]
        lines.append(f"{motion:8s}" + "".join(f"{cell:>16s}" for cell in cells))
    return "\n".join(lines) + "\n"


def main() -> None:
    """Draw toy.png and toy.gif of the first of five seeds, and print what all five measure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.toy", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/pictures"), help="folder of toy.png and toy.gif")
    parser.add_argument("--seed", type=int, default=0, help="of the pictures, and the first of five that are measured")
    arguments = parser.parse_args()
    if not arguments.out.is_dir():
        parser.error(f"--out {arguments.out} is no folder; make it, or run this from the root of the repository")
    torch.set_num_threads(1)
    png, gif = pictures(arguments.seed, _ROUNDS)
    write_atomic(arguments.out / "toy.png", png)
    write_atomic(arguments.out / "toy.gif", gif)
    sys.stdout.write(_measure(range(arguments.seed, arguments.seed + _SEEDS)))


if __name__ == "__main__":
    run_or_exit(main)
