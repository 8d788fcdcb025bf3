"""Small games of generator methods, looked at and taken apart."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pipeline import methods, nets
from pipeline.augment import Augment
from pipeline.core.checkpoint import Checkpoint
from pipeline.core.device import Compute
from pipeline.core.params import build
from pipeline.core.rng import generator
from pipeline.synthesis.generating import Game
from pipeline.teacher.model import Teacher, TeacherInfo

COMPUTE = Compute(device="cpu", precision="float32", channels_last=False, compile="never")
OFF = Augment(crop=0, flip=False, rotate=0, translate=0, scale=(1, 1), shear=0, cutout=0, fill="zeros")
UPDATES: dict[str, Any] = {
    "optimiser": "adam", "learning_rate": 0.01, "momentum": 0.9, "weight_decay": 0.0, "schedule": "cosine",
    "milestones": [], "decay": 0.1, "clip_norm": None,
}  # fmt: skip
COMMON: dict[str, Any] = {
    "generator": {"latent_dim": 6, "widths": [6, 4], "epsilon": 1e-5, "tanh": True, "affine": False},
    "views": OFF.model_dump(mode="json"), "clamp": False, "updates": UPDATES, "batch": 8, "epochs": 3,
    "iterations": 2, "snapshots": {"states": 2, "since": 0.0}, "statistics": "eval",
}  # fmt: skip
PROXY: dict[str, Any] = {"arch": "resnet8", "updates": UPDATES}
OWN: dict[str, dict[str, Any]] = {
    "dafl": {"one_hot": 1.0, "activation": 0.1, "entropy": 5.0},
    "zskt": {"proxy": PROXY, "temperature": 1.0, "student_steps": 2, "fresh": False, "attention": None},
    "dfad": {"proxy": PROXY, "student_steps": 2, "regularisation": None, "interpolation": None},
}
DUELS = ("zskt", "dfad")
ATTENTION: dict[str, Any] = {"weight": 2500.0, "blocks": [["layer1", "layer1"], ["layer3", "layer3"]]}
BOUNDARY: dict[str, Any] = {"weight": 0.7, "margin": 0.5, "blocks": [["layer2", "layer1"], ["layer3", "layer3"]]}


def teacher(arch: str = "resnet8") -> Teacher:
    """Of ten classes, with random weights and statistics that fit them, for images of 8 pixels."""
    net = nets.build(arch, 10, 1, 8, rng=generator(7, "teacher"))
    images = torch.randn(64, 1, 8, 8, generator=generator(7, "images"))
    for _ in range(20):
        net(images)
    head = nets.final_linear(net)
    with torch.no_grad():  # each class about as often as any other
        logits = net.eval()(images)
        head.weight.div_(logits.std(0)[:, None] / 2)
        head.bias.sub_(logits.mean(0)).div_(logits.std(0) / 2)
    info = TeacherInfo(
        arch=arch, classes=tuple("0123456789"), channels=1, size=8, mean=(0.4,), std=(0.3,), batch_norm=True, sha256="",
        accuracy=None, source="random weights",
    )  # fmt: skip
    return Teacher(net, info)


def method(name: str, **changes: Any) -> Any:
    return build(methods.load(name), {**COMMON, **OWN[name], **changes}, f"methods.{name}")


def fit(name: str, folder: Path, seed: int = 0, compute: Compute = COMPUTE, **changes: Any) -> Any:
    folder.mkdir(exist_ok=True)
    return method(name, **changes).fit(teacher(), generator(seed, "fit"), Checkpoint(folder / "fit"), compute)


def fit_with_fault(name: str, folder: Path, fault: str) -> None:
    """`fit` in a process of its own, which ends at a crash point."""
    torch.set_num_threads(1)
    os.environ["AFTERIMAGE_FAULT"] = fault
    fit(name, folder)


def content(source: Any) -> tuple[Any, ...]:
    """Everything that a fit is for: its files, and what it draws."""
    batches = [source.draw(10, generator(3, "t", index), index) for index in range(2)]
    return (
        *((name, dict(facts), content) for name, _, facts, content in source.attachments()),
        *(batch.images.numpy().tobytes() for batch in batches),
        *(batch.targets.numpy().tobytes() for batch in batches),
    )


@contextmanager
def playing(name: str, seed: int = 0, compute: Compute = COMPUTE, **changes: Any) -> Iterator[Game]:
    """A game of networks that nobody has trained yet, ready to play."""
    game = method(name, **changes).game(teacher(), seed, compute)
    with game.watching():
        yield game


class Step(NamedTuple):
    side: str
    loss: Tensor  # with its graph
    index: int


def asked(game: Game) -> list[Step]:
    """What a game asks its sides to learn, from now on; they do not learn it."""
    steps: list[Step] = []

    def keep(side: str) -> Any:
        return lambda loss, index: steps.append(Step(side, loss, index))

    for name, side in game.sides.items():
        side.learn = keep(name)
    return steps


@contextmanager
def inputs(net: nn.Module) -> Iterator[list[Tensor]]:
    """What a network is given."""
    seen: list[Tensor] = []
    hook = net.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    yield seen
    hook.remove()


@contextmanager
def outputs(net: nn.Module, names: list[str]) -> Iterator[dict[str, Tensor]]:
    """What blocks put out, seen without the code under test."""
    found: dict[str, Tensor] = {}
    hooks = [
        net.get_submodule(name).register_forward_hook(lambda _, __, out, name=name: found.update({name: out.clone()}))
        for name in names
    ]
    yield found
    for hook in hooks:
        hook.remove()


def weights(net: nn.Module) -> list[Tensor]:
    return [value.detach().clone() for value in net.parameters()]


def unchanged(net: nn.Module, before: list[Tensor]) -> bool:
    return all(torch.equal(*pair) for pair in zip(before, net.parameters(), strict=True))
