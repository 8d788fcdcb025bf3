"""Adversarial belief matching in two dimensions: `python -m benchmarks.toy` draws it and measures it.

After the toy experiment of Micaelli & Storkey (2019), section 4.1: there is no generator, the pseudo points themselves
take the steps that maximise KL(teacher || student). The problem, the networks and the settings are our own.
"""

import argparse
import copy
import io
import math
import statistics
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pipeline.core.errors import run_or_exit
from pipeline.core.files import write_atomic
from pipeline.core.rng import numpy_stream, stream
from pipeline.losses import logits

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

SPAN = 1.5  # the square is [-SPAN, SPAN]^2
_PAPER, _INK, _GREY, _FRAME = (255, 255, 255), (38, 40, 48), (104, 107, 116), (176, 179, 188)
_PALE = ((205, 224, 243), (252, 229, 199), (212, 236, 207))  # one per class
_STRONG = ((44, 110, 176), (212, 120, 20), (58, 142, 68))  # likewise
_PSEUDO = (208, 24, 104)
_LINE = 2.0  # pixels
_FINE = 4  # dots are drawn this many times too large, then averaged
_FONT = 19  # pixels
_GAP, _MARGIN, _HEAD, _FOOT = 16, 14, 30, 36  # pixels

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Floats = npt.NDArray[np.float64]

_PANEL, _GIF_PANEL = 232, 320  # pixels
_MOMENTS = (0, 1 / 30, 1 / 12, 1 / 6, 1)  # of the game, in the strip
_GIF_FRAMES, _GIF_PACE, _GIF_MILLISECONDS = 40, 1.7, 120  # frames are closer together where more happens: early


class Frame(NamedTuple):
    """The game after a round."""

    number: int
    points: Tensor  # [N, 2]
    student: nn.Module


class Panel(NamedTuple):
    """A square picture with a label above each end."""

    picture: Image.Image
    left: str
    right: str


def spirals(seed: int) -> tuple[Tensor, Tensor]:
    """Three interleaved arms: points [N, 2] float32, classes [N] int64."""
    rng = numpy_stream(stream(seed, "toy/data"))
    labels = np.repeat(np.arange(_CLASSES), _PER_CLASS)
    along = np.sqrt(rng.uniform(0.02, 1, len(labels)))
    angle = 2 * np.pi * (labels / _CLASSES + _TURNS * along)
    points = _REACH * along[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    points += rng.normal(0, _NOISE, points.shape)
    return torch.from_numpy(points).float(), torch.from_numpy(labels)


def fit(points: Tensor, labels: Tensor, seed: int) -> nn.Module:
    """The teacher of points [N, 2] and classes [N]; its parameters collect no gradients."""
    net = _network(_TEACHER_WIDTH, stream(seed, "toy/teacher"))
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
    rng = stream(seed, "toy/points")
    points = _ring(rng).requires_grad_()
    student = _network(_STUDENT_WIDTH, stream(seed, "toy/student"))
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
        return 100 * float(logits.agreement(student(points), teacher(points)))


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
    (points.grad,) = torch.autograd.grad(logits.kl(student(points), teacher(points), 1.0), points)
    ascent.step()
    points.detach().clamp_(-SPAN, SPAN)


def _learn(points: Tensor, student: nn.Module, teacher: nn.Module, descent: torch.optim.Optimizer) -> None:
    beliefs = teacher(points)
    for _ in range(_STUDENT_STEPS):
        descent.zero_grad()
        logits.kl(student(points), beliefs, 1.0).backward()
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


# Pictures of three-class classifiers on the square; equal input gives equal bytes.


def grid(side: int) -> Tensor:
    """The centres of side x side pixels, [side * side, 2] float32 (x, y), row by row from the top."""
    axis = (torch.arange(side) + 0.5) * (2 * SPAN / side) - SPAN
    y, x = torch.meshgrid(-axis, axis, indexing="ij")
    return torch.stack([x, y], dim=-1).reshape(-1, 2)


def regions(net: nn.Module, side: int) -> Image.Image:
    """A pale colour for each of three classes, side x side pixels."""
    shares = np.clip(_distances(net, side) + 0.5, 0, 1)
    colours = np.tensordot(shares / shares.sum(0), np.array(_PALE), axes=(0, 0))
    return Image.fromarray(np.rint(colours).astype(np.uint8))


def boundaries(picture: Image.Image, net: nn.Module) -> Image.Image:
    """A copy with dark lines where `net` is between two classes."""
    nearest = np.abs(_distances(net, picture.width)).min(0)
    line = Image.fromarray(np.rint(np.clip((_LINE + 1) / 2 - nearest, 0, 1) * 255).astype(np.uint8))
    return Image.composite(Image.new("RGB", picture.size, _INK), picture, line)


def crowd(picture: Image.Image, points: Tensor, labels: Tensor | None, radius: float) -> Image.Image:
    """A copy with a dot for each point.

    Args:
        picture: square.
        points: [N, 2] in the plane.
        labels: int64 [N], dots in the colours of their classes; None: pseudo points.
        radius: pixels, a thin pale rim included.
    """
    sheet = Image.new("RGBA", (picture.width * _FINE, picture.height * _FINE), (*_PAPER, 0))
    draw = ImageDraw.Draw(sheet)
    colours = [_PSEUDO] * len(points) if labels is None else [_STRONG[label] for label in labels.tolist()]
    for (x, y), colour in zip(points.tolist(), colours, strict=True):
        centre = ((x / SPAN + 1) / 2 * sheet.width, (1 - y / SPAN) / 2 * sheet.height)
        _dot(draw, centre, radius * _FINE, colour)
    copy = picture.convert("RGBA")
    copy.alpha_composite(sheet.resize(picture.size, Image.Resampling.BOX))
    return copy.convert("RGB")


def strip(panels: Sequence[Panel]) -> bytes:
    """A PNG of panels side by side on white, a legend below."""
    side = panels[0].picture.width
    width = 2 * _MARGIN + len(panels) * side + (len(panels) - 1) * _GAP
    sheet = Image.new("RGB", (width, _HEAD + side + _FOOT), _PAPER)
    for column, panel in enumerate(panels):
        sheet.paste(_labelled(panel), (_MARGIN + column * (side + _GAP), 0))
    _legend(sheet, _HEAD + side + _FOOT // 2 + 1)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def animation(panels: Sequence[Panel], milliseconds: int) -> bytes:
    """A GIF that runs for ever; its first and last picture stay for longer."""
    frames = [_padded(_labelled(panel)) for panel in panels]
    palette = _palette()
    reduced = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    durations = [milliseconds] * len(frames)
    durations[0], durations[-1] = 10 * milliseconds, 25 * milliseconds
    buffer = io.BytesIO()
    reduced[0].save(buffer, "GIF", save_all=True, append_images=reduced[1:], duration=durations, loop=0, optimize=True)
    return buffer.getvalue()


def _palette() -> Image.Image:
    """The flat colours as they are, and their blends at the edges of lines, letters and dots."""
    flat = (_PAPER, *_PALE)
    pairs = [(ground, sign) for sign in (_INK, _PSEUDO) for ground in flat]
    pairs += [(_PAPER, _GREY), *zip(_PALE, _PALE[1:] + _PALE[:1], strict=True)]
    blends = [
        tuple(round(a + share * (b - a)) for a, b in zip(ground, sign, strict=True))
        for ground, sign in pairs
        for share in (0.25, 0.5, 0.75)
    ]
    colours = (*flat, _INK, _PSEUDO, _GREY, _FRAME, *blends)
    image = Image.new("P", (1, 1))
    image.putpalette([level for colour in colours for level in colour])
    return image


def _distances(net: nn.Module, side: int) -> Floats:
    """How many pixels inside a class's region a pixel is (outside: negative), to first order, [K, side, side]."""
    with torch.no_grad():
        logits = net(grid(side)).double().numpy().T.reshape(-1, side, side)
    others = [np.delete(logits, cls, axis=0).max(0) for cls in range(len(logits))]
    margins = logits - np.stack(others)
    down, right = np.gradient(margins, axis=(1, 2))
    return margins / np.maximum(np.hypot(down, right), 1e-12)


def _dot(draw: ImageDraw.ImageDraw, centre: tuple[float, float], radius: float, colour: tuple[int, int, int]) -> None:
    for reach, fill in ((radius, (*_PAPER, 255)), (radius * 0.78, (*colour, 255))):
        box = (centre[0] - reach, centre[1] - reach, centre[0] + reach, centre[1] + reach)
        draw.ellipse(box, fill=fill)


def _labelled(panel: Panel) -> Image.Image:
    side = panel.picture.width
    sheet = Image.new("RGB", (side, _HEAD + side), _PAPER)
    sheet.paste(panel.picture, (0, _HEAD))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(_FONT)
    draw.rectangle((0, _HEAD, side - 1, _HEAD + side - 1), outline=_FRAME)
    draw.text((1, _HEAD - 8), panel.left, fill=_INK, font=font, anchor="ls")
    draw.text((side - 1, _HEAD - 8), panel.right, fill=_GREY, font=font, anchor="rs")
    return sheet


def _padded(picture: Image.Image) -> Image.Image:
    sheet = Image.new("RGB", (picture.width + 2 * _MARGIN, picture.height + _MARGIN), _PAPER)
    sheet.paste(picture, (_MARGIN, 0))
    return sheet


def _legend(sheet: Image.Image, middle: int) -> None:
    """What the signs mean, in one line."""
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(_FONT - 2)
    x = _MARGIN
    for colour in _PALE:
        draw.rectangle((x, middle - 8, x + 15, middle + 7), fill=colour, outline=_FRAME)
        x += 19
    x = _word(draw, x + 5, middle, "the teacher's regions", font)
    draw.line((x, middle, x + 26, middle), fill=_INK, width=3)
    x = _word(draw, x + 35, middle, "the student's boundaries", font)
    sign = crowd(Image.new("RGB", (16, 16), _PAPER), torch.zeros(1, 2), None, 6.0)
    sheet.paste(sign, (x, middle - 8))
    x = _word(draw, x + 24, middle, "pseudo points", font)
    x = _word(draw, x, middle, "%  of the plane on which both agree", font)
    _word(draw, x, middle, "student, n: after n rounds", font)


def _word(draw: ImageDraw.ImageDraw, x: int, middle: int, text: str, font: Font) -> int:
    """Write from `x` on; returns where the next sign begins."""
    draw.text((x, middle), text, fill=_GREY, font=font, anchor="lm")
    return x + round(font.getlength(text)) + 34


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
