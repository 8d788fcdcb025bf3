"""What many tests need: a small machine, small networks, small blocks."""

import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pipeline import classifier, methods, nets, real, sources
from pipeline.classifier import Classifier, Teacher
from pipeline.core.checkpoint import Checkpoint
from pipeline.core.device import Compute
from pipeline.core.params import build
from pipeline.core.rng import stream
from pipeline.methods import Batch, Run, draw
from pipeline.optimise.adversarial import GeneratorMethod, Outputs, Step

ROOT = Path(__file__).resolve().parent.parent
CPU = Compute(device="cpu", precision="float32", channels_last=False, compile="never")


# The report as its readers' programs open it.


def summary_of(out: Path) -> dict:
    """summary.json of a report."""
    return json.loads((out / "summary.json").read_text())


class Page(HTMLParser):
    """Collects elements and text; fails on nothing by itself."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def section(out: Path, heading: str) -> str:
    """The page's HTML below a heading, up to the next; empty where there is no such heading."""
    parts = (out / "index.html").read_text(encoding="utf-8").split("<h2>")
    return next((part for part in parts if part.startswith(f"{heading}</h2>")), "")


class Plot(NamedTuple):
    """A small plot, in its own units."""

    caption: str
    lines: dict[str, tuple[str, list[tuple[float, float]]]]  # by name: class names, points
    texts: list[str]


def plots(html: str) -> list[Plot]:
    """Every plot of a piece of the page, values read off between the labelled lines of its grid."""
    return [_plot(figure) for figure in re.findall(r"<figure.*?</figure>", html, re.DOTALL)]


def _plot(figure: str) -> Plot:
    grid = re.findall(r'<line class="grid"[^>]* y1="([^"]+)"[^>]*/>\s*<text[^>]*>([^<]+)<', figure)
    (low, zero), (high, one) = ((float(at), float(text)) for at, text in (grid[0], grid[-1]))
    lines = {}
    for style, path, name in re.findall(r'<polyline class="([^"]+)" points="([^"]+)">(?:<title>([^<]*))?', figure):
        pairs = [tuple(map(float, pair.split(","))) for pair in path.split()]
        lines[name] = (style, [(x, zero + (y - low) / (high - low) * (one - zero)) for x, y in pairs])
    caption = re.search(r"<figcaption>([^<]*)", figure)[1]
    return Plot(caption, lines, re.findall(r"<text[^>]*>([^<]*)", figure))


# -- teachers of every source ----------------------------------------------------------------------------------------

NO_DATA = real.parse({"source": "none"})


def make_teacher(
    block: dict[str, Any], work: Path, data: real.DataBlock = NO_DATA, trust: tuple[str, ...] = (), seed: int = 0
) -> Teacher:
    """What the stage does; a training keeps its state in `work`."""
    params = sources.parse(block)
    state = Checkpoint(work / "teacher.safetensors")
    return sources.make_teacher(params, sources.Data.read(params, data), trust, CPU, seed, state)


# Synthesis: small teachers, a generator method in few lines, and small blocks of the real ones.

OPTIMIZER: dict[str, Any] = {"name": "adam", "learning_rate": 0.01, "momentum": 0.9, "schedule": "cosine"}
GENERATOR: dict[str, Any] = {
    "generator": {"latent_dim": 6, "widths": [6, 4], "epsilon": 1e-5, "tanh": True, "affine": False},
    "augment": None, "clamp": False, "optimizer": OPTIMIZER, "batch": 8, "epochs": 3, "iterations": 2,
    "snapshots": {"states": 2, "since": 0.0}, "bn_mode": "eval",
}  # fmt: skip
_PROXY: dict[str, Any] = {"arch": "resnet8", "optimizer": OPTIMIZER}
GENERATORS: dict[str, dict[str, Any]] = {
    "dafl": {"one_hot": 1.0, "activation": 0.1, "entropy": 5.0, "features": "head"},
    "zskt": {"proxy": {**_PROXY, "loss": {"kl": {"temperature": 1.0}}}, "student_steps": 2, "fresh": False},
    "dfad": {"proxy": {**_PROXY, "loss": {"l1": {}}}, "student_steps": 2, "terms_reach_generator": False},
}
ATTENTION: dict[str, Any] = {"weight": 2500.0, "blocks": [["layer1", "layer1"], ["layer3", "layer3"]]}
BOUNDARY: dict[str, Any] = {"weight": 0.7, "margin": 0.5, "blocks": [["layer2", "layer1"], ["layer3", "layer3"]]}


def teacher_card(classes: int = 10, size: int = 8, **changes: Any) -> classifier.TeacherCard:
    fields: dict[str, Any] = {
        "arch": "none", "classes": tuple(f"c{k}" for k in range(classes)), "channels": 1, "size": size, "mean": (0.4,),
        "std": (0.3,), "batch_norm": True, "sha256": "", "accuracy": None, "source": "random weights",
    }  # fmt: skip
    return classifier.TeacherCard(**{**fields, **changes})


def frozen(net: nn.Module, **card: Any) -> Teacher:
    """A teacher around any network."""
    return Classifier(net, teacher_card(**card)).freeze()


def calibrated_teacher(arch: str = "resnet8", size: int = 8) -> Teacher:
    """Of ten classes, with random weights and statistics that fit them, each class about as often as any other."""
    net = nets.build(arch, 10, 1, size, rng=stream(7, "teacher"))
    images = torch.randn(64, 1, size, size, generator=stream(7, "images"))
    for _ in range(20):
        net(images)
    head = nets.final_linear(net)
    with torch.no_grad():
        logits = net.eval()(images)
        head.weight.div_(logits.std(0)[:, None] / 2)
        head.bias.sub_(logits.mean(0)).div_(logits.std(0) / 2)
    return frozen(net, arch=arch, size=size)


def a_run(teacher: Teacher, folder: Path = Path("unused"), seed: int = 0, compute: Compute = CPU) -> Run:
    return Run(teacher, stream(seed, "fit"), Checkpoint(folder / "fit.safetensors"), compute)


class Toy(GeneratorMethod):
    """A generator that learns to make grey."""

    def start(self, run: Run, seed: int) -> "ToyStep":
        return ToyStep(self, run, seed)


class ToyStep(Step):
    # Tests change what is seen in an iteration, or pull the plug in the middle of one.
    seen: Callable[[int, Outputs], Outputs] = staticmethod(lambda number, outputs: outputs)

    def __call__(self, number: int) -> Outputs:
        (latents,) = self.latents(number, 1)
        raw, images = self.images(latents)
        loss = (images - 0.5).square().mean()
        luck = torch.rand(())  # as a layer with dropout would draw it
        self.generator.step(loss * (1 + luck), number)
        return self.seen(number, Outputs({"loss": loss, "luck": luck}, raw, self.teacher(images), None))


def toy(states: int = 1, since: float = 0.0, **changes: Any) -> Toy:
    shape = {"latent_dim": 5, "widths": [4, 3], "epsilon": 1e-5, "tanh": True, "affine": True}
    block: dict[str, Any] = {
        "generator": shape, "augment": None, "clamp": False, "optimizer": {**OPTIMIZER, "schedule": "constant"},
        "batch": 6, "epochs": 4, "iterations": 3, "snapshots": {"states": states, "since": since}, "bn_mode": "eval",
    }  # fmt: skip
    return build(Toy, {**block, **changes}, "methods.support")


def generator_method(name: str, proxy: dict[str, Any] | None = None, **changes: Any) -> Any:
    """A small block of a generator method; `proxy` changes keys of its proxy."""
    block = {**GENERATOR, **GENERATORS[name], **changes}
    if proxy is not None:
        block["proxy"] = {**block["proxy"], **proxy}
    return build(methods.load(name), block, f"methods.{name}")


def fit_generator(name: str, folder: Path, seed: int = 0, compute: Compute = CPU, **changes: Any) -> Any:
    folder.mkdir(exist_ok=True)
    return generator_method(name, **changes).fit(a_run(calibrated_teacher(), folder, seed, compute))


def fit_with_fault(name: str, folder: Path, fault: str) -> None:
    """`fit_generator` in a process of its own, which ends at a crash point."""
    torch.set_num_threads(1)
    os.environ["PHOTOGRAM_FAULT"] = fault
    fit_generator(name, folder)


@contextmanager
def stepping(name: str, seed: int = 0, compute: Compute = CPU, **changes: Any) -> Iterator[Any]:
    """A generator method's step with networks that nobody has trained yet."""
    step = generator_method(name, **changes).start(a_run(calibrated_teacher(), compute=compute), seed)
    with step.hooks():
        yield step


def drawn(source: Any, count: int, number: int = 0, seed: int = 0) -> Batch:
    return draw(source, count, stream(seed, "t", number), number)


@contextmanager
def inputs_of(net: nn.Module) -> Iterator[list[Tensor]]:
    """What a network is given, pass by pass."""
    seen: list[Tensor] = []
    hook = net.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    yield seen
    hook.remove()


@contextmanager
def outputs_of(net: nn.Module, names: list[str]) -> Iterator[dict[str, Tensor]]:
    """What blocks put out, seen without the code under test."""
    found: dict[str, Tensor] = {}
    hooks = [
        net.get_submodule(name).register_forward_hook(lambda _, __, out, name=name: found.update({name: out.clone()}))
        for name in names
    ]
    yield found
    for hook in hooks:
        hook.remove()


class Asked(NamedTuple):
    name: str  # generator, proxy
    loss: Tensor  # with its graph
    number: int


def asked(step: Any) -> list[Asked]:
    """What a step asks its networks to learn, from now on; they do not learn it."""
    steps: list[Asked] = []

    def keep(name: str) -> Any:
        return lambda loss, number: steps.append(Asked(name, loss, number))

    for name, learner in step.learners.items():
        learner.step = keep(name)
    return steps


def contents(source: Any) -> tuple[Any, ...]:
    """Everything that a generator's fit is for: its files, and what is drawn from it."""
    return (
        *((name, dict(facts), content) for name, _, facts, content in source.attachments()),
        *(drawn(source, 10, number, seed=3).images.numpy().tobytes() for number in range(2)),
    )


def weights(net: nn.Module) -> list[Tensor]:
    return [value.detach().clone() for value in net.parameters()]


def unchanged(net: nn.Module, before: list[Tensor]) -> bool:
    return all(torch.equal(*pair) for pair in zip(before, net.parameters(), strict=True))
