"""What is drawn from a generator's states, and the files that they leave."""

import csv
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load
from torch import Tensor, nn

from pipeline.classifier import Teacher
from pipeline.core.files import write_atomic
from pipeline.core.rng import stream
from pipeline.nets.generators import Generator, build_generator, load_generator
from pipeline.optimise.snapshots import Snapshots
from tests.support import CPU, a_run, frozen, toy

SHAPE = toy().generator
LEVELS = (51, 102, 153, 204)  # of 255: what each state paints
BATCH = 6


@pytest.fixture
def teacher() -> Teacher:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 6 * 6, 3))
    return frozen(net, classes=3, mean=(0.5,), std=(0.25,))


def painting(level: int) -> dict[str, Tensor]:
    """Weights of a generator that makes one grey, whatever the noise."""
    net = build_generator(SHAPE, (0.5,), (0.25,), 8, stream(0, "weights"))
    net.bn3.weight.data.zero_()
    net.bn3.bias.data.fill_((level / 255 - 0.5) / 0.25)
    return net.state_dict()


def source(teacher: Any, states: Any = None, bn_mode: Any = "eval", **changes: Any) -> Snapshots:
    net = build_generator(SHAPE, (0.5,), (0.25,), 8, stream(0, "weights"))
    for step in range(40):  # moves the running statistics to where they belong
        net(torch.randn(20, SHAPE.latent_dim, generator=stream(0, "noise", step)))
    states = {1: {name: value.clone() for name, value in net.state_dict().items()}} if states is None else states
    fields = {"history": [{"epoch": 1, "loss": 0.5}], "proxy": None, **changes}
    return Snapshots(net, BATCH, bn_mode, teacher, CPU, states, **fields)


def painters(teacher: Any) -> Snapshots:
    return source(teacher, {epoch: painting(level) for epoch, level in enumerate(LEVELS, start=1)})


def levels(images: Tensor) -> list[int]:
    """Which grey each image is of."""
    assert images.flatten(1).std(1).max() < 1e-6
    return [round(value * 255) for value in images[:, 0, 0, 0].tolist()]


@contextmanager
def passes(drawn: Snapshots) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Noise and images of each of the generator's forward passes."""
    seen: list[tuple[Tensor, Tensor]] = []
    hook = drawn._net.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))
    yield seen
    hook.remove()


@pytest.mark.parametrize("count", [4, 40, 42, 43, 3, 1])
def test_each_state_makes_an_equal_share_of_every_shard(teacher: Any, count: int) -> None:
    drawn = painters(teacher)
    for index in range(3):
        found = levels(drawn.draw(count, stream(0, "t", index)).images)
        shares = [found.count(level) for level in LEVELS]
        assert sum(shares) == count
        assert set(shares) <= {count // 4, -(-count // 4)}


def test_states_stand_in_random_order_and_random_ones_make_what_does_not_divide(teacher: Any) -> None:
    drawn = painters(teacher)
    shards = [levels(drawn.draw(25, stream(0, "t", index)).images) for index in range(12)]
    assert all(shard != sorted(shard) for shard in shards)
    assert len({tuple(shard) for shard in shards}) == 12
    often = [next(level for level in LEVELS if shard.count(level) == 7) for shard in shards]
    assert len(set(often)) > 1


@pytest.mark.parametrize("bn_mode", ["train", "eval"])
def test_images_are_stored_levels_in_range_and_steered_nowhere(teacher: Any, bn_mode: str) -> None:
    drawn = source(teacher, bn_mode=bn_mode)
    with passes(drawn) as seen:
        images, targets = drawn.draw(50, stream(0, "t"))
    raw = torch.cat([made for _, made in seen])[:50]
    assert raw.min() < 0  # so that clamping is tried
    assert raw.max() > 1
    assert torch.equal(images.mul(255).round() / 255, images)
    assert (images - raw.clamp(0, 1)).abs().max() <= 0.5 / 255 + 1e-6
    assert targets is None


def test_images_depend_on_their_batch_under_its_own_statistics_and_not_under_running_ones(teacher: Any) -> None:
    alone: dict[str, Tensor] = {}
    for bn_mode in ("train", "eval"):
        drawn = source(teacher, bn_mode=bn_mode)
        with passes(drawn) as seen:
            drawn.draw(16, stream(0, "t"))
        noise, images = seen[0]
        changed = noise.clone()
        changed[1:] += 1  # other neighbours of the first image
        difference = (drawn._net(changed)[0] - images[0]).abs().max()
        assert (difference > 0.01) == (bn_mode == "train")
        if bn_mode == "train":  # whole batches, the last one too
            assert [len(part) for part, _ in seen] == [BATCH] * 3
        alone[bn_mode] = images[0]
    assert not torch.allclose(alone["train"], alone["eval"], atol=1e-3)


def test_draws_depend_on_the_random_numbers_handed_in_alone(teacher: Any) -> None:
    drawn = source(teacher, bn_mode="train")
    kept = drawn.attachments()
    before = torch.get_rng_state()
    first = drawn.draw(20, stream(0, "t", 0)).images
    other = drawn.draw(20, stream(0, "t", 1)).images
    assert torch.equal(drawn.draw(20, stream(0, "t", 0)).images, first)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)
    assert drawn.attachments() == kept  # batches that were drawn moved no statistic


def test_a_fits_generators_load_back_and_make_the_same_images(teacher: Any, tmp_path: Path) -> None:
    for bn_mode in ("train", "eval"):
        method = toy(states=2, bn_mode=bn_mode)
        (tmp_path / bn_mode).mkdir()
        drawn = method.fit(a_run(teacher, tmp_path / bn_mode))
        for place, attachment in enumerate(drawn.attachments()[:2]):
            write_atomic(tmp_path / attachment.name, attachment.content)
            net = load_generator(tmp_path / attachment.name)
            only = Snapshots(
                Generator(SHAPE, (0.5,), (0.25,), 8), BATCH, bn_mode, teacher, CPU,
                {1: drawn._states[place]}, [], None,
            )  # fmt: skip
            with passes(only) as seen:
                only.draw(BATCH, stream(0, "t"))
            noise, images = seen[0]
            assert torch.equal(net(noise), images)
            assert attachment.facts == {**SHAPE.model_dump(mode="json"), "epoch": 2 * (place + 1)}


def test_the_files_of_a_source_are_its_generators_its_proxy_and_its_history(teacher: Any) -> None:
    history = [{"epoch": 1, "loss": 0.1 + 0.2, "spread": 1e-12}, {"epoch": 2, "loss": 3.0, "spread": 0.5}]
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).to(memory_format=torch.channels_last)
    states = {epoch: painting(level) for epoch, level in zip((4, 12), LEVELS, strict=False)}
    files = source(teacher, states, history=history, proxy=("lenet5", net)).attachments()
    assert [(file.name, file.kind) for file in files] == [
        ("generator-0004.safetensors", "generator"), ("generator-0012.safetensors", "generator"),
        ("proxy.safetensors", "proxy"), ("fit.csv", "history"),
    ]  # fmt: skip
    assert files[2].facts == {"arch": "lenet5"}
    weights = load(files[2].content)
    assert weights.keys() == net.state_dict().keys()
    assert all(torch.equal(weights[name], value) for name, value in net.state_dict().items())
    assert files[3].facts == {"epochs": 2}
    rows = list(csv.DictReader(io.StringIO(files[3].content.decode())))
    assert [{name: float(value) for name, value in row.items()} for row in rows] == history


def test_without_a_proxy_there_is_no_file_of_one(teacher: Any) -> None:
    assert [file.kind for file in source(teacher).attachments()] == ["generator", "history"]
