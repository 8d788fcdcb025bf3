"""What many tests need: a small machine, small networks, small blocks."""

import io
import json
import os
import re
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from pipeline import classifier, methods, nets, real, sources
from pipeline.classifier import Card, Classifier, Teacher, TeacherCard
from pipeline.core.checkpoint import Checkpoint
from pipeline.core.device import Compute
from pipeline.core.files import canonical_json, sha256_bytes
from pipeline.core.params import build
from pipeline.core.rng import stream
from pipeline.methods import Attachment, Batch, Run, draw
from pipeline.optimise.adversarial import GeneratorMethod, Outputs, Step
from pipeline.shards.decode import ShardShape
from pipeline.shards.encode import encode_shard
from pipeline.shards.executor import Executor
from pipeline.shards.make import ShardMaker, Workshop
from pipeline.shards.manifest import (
    FORMAT_VERSION,
    Encoding,
    Manifest,
    ShardEntry,
    Split,
    Totals,
    fields_of,
    manifest_bytes,
    shard_name,
)
from pipeline.shards.produce import produce
from pipeline.shards.publish import describe, finish, publish
from pipeline.shards.reader import Dataset, Samples, Tally
from pipeline.shards.work import Attachments, ShardDirectory, ShardRecord, plan, work_key

ROOT = Path(__file__).resolve().parent.parent
CPU = Compute(device="cpu", precision="float32", channels_last=False, compile="never")


def tree(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# Producing: a small dataset made by a method that takes no time.

CLASSES, CHANNELS, SIZE, SHARD = 4, 1, 6, 5
NAMES = ("ant", "bee", "cat", "dog")
SHA = "5" * 64
PARAMS = {"level": 1.0, "steps": [1, 2]}
LEFT = (  # by a fit
    Attachment("proxy.safetensors", "proxy", {"arch": "resnet8"}, b"weights of a proxy"),
    Attachment("generator-02.safetensors", "generator", {"noise": 8, "widths": [4, 2], "epoch": 2}, b"second" * 50),
    Attachment("generator-01.safetensors", "generator", {"noise": 8, "widths": [4, 2], "epoch": 1}, b"first" * 50),
    Attachment("fit.csv", "history", {}, b"epoch,loss\n1,0.5\n"),
)


def linear_teacher() -> Teacher:
    rng = torch.Generator().manual_seed(0)
    linear = nn.Linear(CHANNELS * SIZE * SIZE, CLASSES)
    with torch.no_grad():
        linear.weight.copy_(torch.randn(linear.weight.shape, generator=rng))
        linear.bias.zero_()
    info = TeacherCard(
        arch="linear", classes=NAMES, channels=CHANNELS, size=SIZE, mean=(0.5,), std=(0.25,),
        batch_norm=False, sha256=SHA, accuracy=None, source="a test",
    )  # fmt: skip
    return Classifier(nn.Sequential(nn.Flatten(), linear), info).freeze()


class NoiseSource:
    """Images of noise, a random target distribution; each draw leaves its number in a log."""

    def __init__(self, pause: float = 0.0, log: Path | None = None) -> None:
        self.pause, self.log = pause, log

    def draw_numbered(self, count: int, rng: torch.Generator, number: int) -> Batch:
        time.sleep(self.pause)
        note(self.log, str(number))
        images = torch.rand(count, CHANNELS, SIZE, SIZE, generator=rng)
        return Batch(images, torch.rand(count, CLASSES, generator=rng).softmax(dim=1))


class FixedSource:
    """Hands out what it was given."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def draw(self, count: int, rng: torch.Generator) -> Batch:
        return self.batch


class DyingSource:
    def draw(self, count: int, rng: torch.Generator) -> Batch:
        os.kill(os.getpid(), 9)
        raise AssertionError


def note(log: Path | None, line: str) -> None:
    if log is not None:
        with log.open("a") as file:
            file.write(f"{line}\n")


def noise_workshop(pause: float = 0.0, log: Path | None = None) -> Workshop:
    return Workshop(NoiseSource(pause, log), linear_teacher())


def dying_workshop() -> Workshop:
    return Workshop(DyingSource(), linear_teacher())


def failing_workshop() -> Workshop:
    images = torch.full((SHARD, CHANNELS, SIZE, SIZE), torch.nan)
    return Workshop(FixedSource(Batch(images, torch.full((SHARD, CLASSES), 1 / CLASSES))), linear_teacher())


def attaching_workshop(attachments: Attachments, log: Path | None) -> Workshop:
    """As the stage opens it: what the fit leaves is stored unless it is there."""
    if attachments.entries() is None:
        attachments.store(LEFT, "noise")
        note(log, "stored")
    return noise_workshop()


def noise_key(**changes: object) -> dict[str, object]:
    usual = work_key(
        method="noise", params=PARAMS, seed=0, teacher=SHA, encoding="png", size=SHARD, code="c0de", compute=CPU
    )  # fmt: skip
    return usual | changes


def make_noise(
    root: Path,
    out: Path | None,
    count: int = 4 * SHARD,
    holdout: int = SHARD,
    executor: Executor | None = None,
    seed: int = 0,
    encoding: str = "png",
    pause: float = 0.0,
    log: Path | None = None,
    attach: bool = False,
) -> tuple[ShardRecord, ...]:
    """What a stage does: plan, enter the work directory, produce, publish."""
    plans, executor = plan(count, SHARD, holdout), executor or Executor()
    with ShardDirectory(root, "noise", noise_key(seed=seed, encoding=encoding)) as work:
        opening = partial(attaching_workshop, work.attachments, log) if attach else partial(noise_workshop, pause, log)
        maker = ShardMaker(opening, seed, "noise", encoding, soft_targets=True)
        records = produce(work, plans, maker, executor)
        if attach and work.attachments.entries() is None:
            produce(work, (), maker, executor)
        if out is not None:
            found = work.attachments.entries() or ()
            manifest = describe(
                plans, records, maker, params=PARAMS, data_free=True, teacher=linear_teacher().card, attachments=found,
                steered=True,
            )  # fmt: skip
            publish(work, manifest, out)
    return records


def make_noise_with_fault(root: Path, out: Path, fault: str, count: int, pause: float, attach: bool = False) -> None:
    """`make_noise` in a process of its own, which a test may kill or which ends at a crash point."""
    if fault:
        os.environ["PHOTOGRAM_FAULT"] = fault
    make_noise(root, out, count=count, pause=pause, attach=attach)


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


# --- datasets: honest ones, and ones that were tampered with and sealed again


@dataclass(frozen=True)
class Data:
    """What a made-up dataset looks like."""

    encoding: Encoding = "npy"
    channels: int = 1
    size: int = 4
    classes: int = 10
    targets: bool = False
    train: tuple[int, ...] = (3, 2)  # samples per shard
    holdout: tuple[int, ...] = (2,)
    seed: int = 0

    @property
    def fields(self) -> dict:
        return fields_of(self.encoding, self.channels, self.size, self.classes, self.targets)


def draw_samples(data: Data, count: int, seed: int) -> Samples:
    """Random samples as a writer would hand them over."""
    rng = torch.Generator().manual_seed(seed)
    images = torch.rand(count, data.channels, data.size, data.size, generator=rng)
    stored = images.mul(255).round().to(torch.uint8) if data.encoding == "png" else images.half()
    logits = torch.randn(count, data.classes, generator=rng)
    targets = torch.rand(count, data.classes, generator=rng).softmax(1)
    return Samples(stored, logits, targets.argmax(1), targets if data.targets else None)


def encode_samples(samples: Samples, encoding: Encoding, split: Split = "train", index: int = 0) -> bytes:
    return encode_shard(samples.images, samples.logits, samples.targets, samples.cls, encoding, split, index)


def shape_of(data: Data, samples: int, split: Split = "train", index: int = 0) -> ShardShape:
    return ShardShape(split, index, samples, data.fields)


def write_dataset(folder: Path, data: Data) -> dict[Split, list[Samples]]:
    """Write a whole dataset; returns what went into it."""
    folder.mkdir(parents=True, exist_ok=True)
    made: dict[Split, list[Samples]] = {"train": [], "holdout": []}
    entries: list[ShardEntry] = []
    tally = Tally(data.classes)
    for split, counts in (("train", data.train), ("holdout", data.holdout)):
        for index, count in enumerate(counts):
            samples = draw_samples(data, count, data.seed * 1000 + len(entries))
            content = encode_samples(samples, data.encoding, split, index)
            (folder / shard_name(split, index)).write_bytes(content)
            entries.append(entry_of(content, split, index, count))
            made[split].append(samples)
            if split == "train":
                tally.add(samples.logits, samples.cls)
    manifest = manifest_of(data, entries, tally)
    (folder / "manifest.json").write_bytes(manifest_bytes(manifest))
    return made


def publish_dataset(folder: Path, data: Data) -> Manifest:
    """Write a whole dataset with card and contact sheet."""
    write_dataset(folder, data)
    return finish(folder, Dataset.open(folder).manifest)


def entry_of(content: bytes, split: Split, index: int, count: int) -> ShardEntry:
    return ShardEntry(
        name=shard_name(split, index),
        split=split,
        samples=count,
        bytes=len(content),
        sha256=sha256_bytes(content),
    )


def manifest_of(data: Data, entries: list[ShardEntry], tally: Tally) -> Manifest:
    return Manifest(
        format_version=FORMAT_VERSION,
        method="noise",
        method_params={"beta": [1.0, 0.1], "steps": 3},
        data_free=True,
        steered=True,
        teacher=Card(
            arch="lenet5",
            sha256="0" * 64,
            classes=tuple(f"class {number}" for number in range(data.classes)),
            channels=data.channels,
            size=data.size,
            mean=(0.5,) * data.channels,
            std=(0.25,) * data.channels,
        ),
        seed=7,
        encoding=data.encoding,
        fields=data.fields,
        shards=tuple(entries),
        attachments=(),
        samples=Totals(train=sum(data.train), holdout=sum(data.holdout)),
        class_histogram=tuple(tally.histogram),
        teacher_agreement=tally.agreement,
    )


def forge(folder: Path, content: bytes, data: Data, samples: int = 1) -> Path:
    """A dataset of one shard with this content, under a manifest that fits it: what a hostile sender would make."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train-00000.tar").write_bytes(content)
    tally = Tally(data.classes)
    tally.histogram[0] = tally.agreed = samples
    one = replace(data, train=(samples,), holdout=())
    manifest = manifest_of(one, [entry_of(content, "train", 0, samples)], tally)
    (folder / "manifest.json").write_bytes(manifest_bytes(manifest))
    return folder


def header(name: bytes, size: int | bytes, kind: bytes = b"0", magic: bytes = b"ustar\x0000", **fields: bytes) -> bytes:
    """A tar header with the right checksum and anything else the caller wants; `fields` are at64=b"..." and so on."""
    block = bytearray(512)
    block[: len(name)] = name
    block[100:108], block[108:116], block[116:124] = b"0000644\0", b"0000000\0", b"0000000\0"
    block[124:136] = size if isinstance(size, bytes) else b"%011o\0" % size
    block[136:148] = b"00000000000\0"
    block[156:157] = kind
    block[257:265] = magic
    for place, value in fields.items():
        start = int(place.removeprefix("at"))
        block[start : start + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def member(name: str, payload: bytes) -> bytes:
    return header(name.encode(), len(payload)) + padded(payload)


def padded(payload: bytes) -> bytes:
    return payload + bytes(-len(payload) % 512)


def archive(*parts: bytes) -> bytes:
    body = b"".join(parts)
    return body + bytes(1024 + -(len(body) + 1024) % 10240)


def numpy_file(array: np.ndarray) -> bytes:
    """An array as numpy itself writes it."""
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, version=(1, 0))
    return stream.getvalue()


def raw_numpy_file(header: bytes, payload: bytes, version: bytes = b"\x01\x00") -> bytes:
    """An npy file with any header."""
    return b"\x93NUMPY" + version + struct.pack("<H", len(header)) + header + payload


def parts(
    data: Data, key: str = "t00000-00000", order: str = "cls logits.npy npy", **payloads: bytes
) -> dict[str, bytes]:
    """The payloads of one good sample by full member name, some replaced; `logits` stands for logits.npy."""
    samples = draw_samples(data, 1, seed=0)
    logits = np.zeros(data.classes, np.float32)
    logits[0] = 1
    good = {
        "cls": b"0",
        "logits.npy": numpy_file(logits),
        "npy": numpy_file(samples.images[0].numpy()),
    }
    replaced = {name.replace("logits", "logits.npy"): payload for name, payload in payloads.items()}
    return {f"{key}.{name}": (good | replaced)[name] for name in order.split()}


def equal(left: Samples, right: Samples) -> bool:
    def bits(tensor: Tensor | None) -> tuple:
        return () if tensor is None else (tensor.dtype, tensor.shape, tensor.numpy().tobytes())

    return all(bits(one) == bits(other) for one, other in zip(left, right, strict=True))


def together(many: list[Samples]) -> Samples:
    kept = [[part[place] for part in many] for place in range(4)]
    return Samples(*(None if parts[0] is None else torch.cat(parts) for parts in kept))


def resealed(content: dict) -> bytes:
    """A manifest that somebody edited who also sets the digest right."""
    rest = {key: value for key, value in content.items() if key != "digest"}
    return canonical_json(rest | {"digest": sha256_bytes(canonical_json(rest))})


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
