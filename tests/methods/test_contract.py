"""What every file in pipeline/methods must keep, on arrival: no edit here is needed for a new one."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pipeline import methods
from pipeline.core.checkpoint import Checkpoint
from pipeline.core.device import Compute
from pipeline.core.params import Block, build, read_params
from pipeline.core.rng import generator
from pipeline.methods import Attachment, Batch, Fitted
from pipeline.teacher.model import Teacher, TeacherInfo

FOLDER = Path(__file__).parents[2] / "presets"
# The default first: its data is embedded, so that references over real images have some.
PRESETS = sorted(FOLDER.glob("*.yaml"), key=lambda path: (path.stem != "digits", path.stem))
LONG = {
    "steps",
    "epochs",
    "iterations",
    "steps_per_epoch",
    "check_every",
    "rounds",
    "images",
    "states",
}  # numbers that only set how long it takes
COUNT = 12


def block_of(name: str) -> dict[str, Any]:
    """The method's block in the first preset that has one, with everything that takes long made short."""
    for path in PRESETS:
        params = read_params(path)
        if name in params["methods"]:
            return {**shortened(params["methods"][name]), **{key: params[key] for key in methods.load(name).reads}}
    pytest.fail(f"no preset has a block for methods.{name}")


def shortened(block: dict[str, Any]) -> dict[str, Any]:
    short = {key: min(value, 2) if key in LONG else value for key, value in block.items() if key != "count"}
    return {key: within(value) for key, value in short.items()}


def within(value: Any) -> Any:
    if isinstance(value, list):
        return [within(item) for item in value]
    return shortened(value) if isinstance(value, dict) else value


@pytest.fixture(params=methods.names())
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def compute() -> Compute:
    return Compute(device="cpu", precision="float32", channels_last=True, compile="never")


@pytest.fixture
def method(name: str) -> Any:
    return build(methods.load(name), block_of(name), f"methods.{name}")


@pytest.fixture
def teacher(method: Any) -> Teacher:
    data = getattr(method, "data", {})
    channels, size = data.get("channels", 1), data.get("size", 16)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(channels, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(),
            nn.Linear(96, 10),
        )  # fmt: skip
    info = TeacherInfo(
        arch="none", classes=tuple("0123456789"), channels=channels, size=size, mean=(0.4,) * channels,
        std=(0.3,) * channels, batch_norm=True, sha256="", accuracy=None, source="random weights",
    )  # fmt: skip
    return Teacher(net, info)


@pytest.fixture
def source(method: Any, teacher: Teacher, compute: Compute, tmp_path: Path) -> Any:
    return method.fit(teacher, generator(0, "fit"), Checkpoint(tmp_path / "fit"), compute)


def draw(source: Any, index: int = 0) -> Batch:
    return source.draw(COUNT, generator(0, "train", index), index)


def test_a_method_is_a_frozen_block_without_defaults_that_says_what_it_is(name: str) -> None:
    kind = methods.load(name)
    assert issubclass(kind, Block)
    assert all(field.is_required() for field in kind.model_fields.values())
    assert isinstance(kind.data_free, bool)
    assert isinstance(kind.soft_targets, bool)
    assert isinstance(kind.attaches, bool)
    assert set(kind.reads) <= set(kind.model_fields)
    assert kind.__doc__
    assert kind.fit.__doc__


def test_a_batch_is_images_in_range_and_distributions(source: Any, teacher: Teacher) -> None:
    images, targets = draw(source)
    info = teacher.info
    assert images.shape == (COUNT, info.channels, info.size, info.size)
    assert targets.shape == (COUNT, len(info.classes))
    assert images.dtype == targets.dtype == torch.float32
    assert torch.isfinite(images).all()
    assert images.min() >= 0
    assert images.max() <= 1
    assert targets.min() >= 0
    torch.testing.assert_close(targets.sum(1), torch.ones(COUNT))


def test_the_same_arguments_give_the_same_batch_whatever_was_drawn_before(source: Any) -> None:
    first = draw(source, 0)
    other = draw(source, 1)
    again = draw(source, 0)
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.targets, again.targets)
    assert not torch.equal(first.images, other.images)


def test_a_second_fit_gives_the_same_source(method: Any, teacher: Teacher, compute: Compute, tmp_path: Path) -> None:
    batches = [
        draw(method.fit(teacher, generator(0, "fit"), Checkpoint(tmp_path / place), compute)) for place in ("a", "b")
    ]
    assert torch.equal(batches[0].images, batches[1].images)


def test_a_source_leaves_files_exactly_if_the_method_says_so(method: Any, source: Any) -> None:
    assert isinstance(source, Fitted) == method.attaches


def attachments_of(source: Any) -> Sequence[Attachment]:
    """What a source leaves, if it leaves anything."""
    return source.attachments() if isinstance(source, Fitted) else ()


def test_files_that_a_fit_leaves_have_plain_names_of_their_own_and_plain_facts(source: Any) -> None:
    found = attachments_of(source)
    names = [attachment.name for attachment in found]
    assert len(set(names)) == len(names)
    for name, kind, facts, content in found:
        assert re.fullmatch(r"[a-z0-9-]{1,100}\.(safetensors|csv)", name)
        assert kind in {"generator", "proxy", "history"}
        assert json.loads(json.dumps(facts, allow_nan=False)) == facts
        assert kind != "proxy" or isinstance(facts["arch"], str)
        assert isinstance(content, bytes)


def test_equal_fits_leave_equal_files(source: Any, method: Any, teacher: Teacher, compute: Compute, tmp_path: Path):
    (tmp_path / "again").mkdir()
    again = method.fit(teacher, generator(0, "fit"), Checkpoint(tmp_path / "again" / "fit"), compute)
    resumed = method.fit(teacher, generator(0, "fit"), Checkpoint(tmp_path / "fit"), compute)
    draw(resumed)  # drawing leaves no mark on them
    assert attachments_of(again) == attachments_of(resumed) == attachments_of(source)


def test_held_out_shards_differ_from_training_shards(source: Any) -> None:
    train, holdout = draw(source, 0), source.draw(COUNT, generator(0, "holdout", 0), -1)
    assert not torch.equal(train.images, holdout.images)


def test_the_teacher_is_left_as_it_was_found(method: Any, teacher: Teacher, compute: Compute, tmp_path: Path) -> None:
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    draw(method.fit(teacher, generator(0, "fit"), Checkpoint(tmp_path / "fit"), compute))
    assert all(torch.equal(before[key], value) for key, value in teacher.state_dict().items())
    for module in teacher.modules():
        assert not module.training
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    assert all(not p.requires_grad and p.grad is None for p in teacher.parameters())


def test_global_random_state_is_not_touched(source: Any) -> None:
    before = torch.get_rng_state()
    draw(source)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_misspelt_key_is_refused(name: str) -> None:
    with pytest.raises(Exception, match=rf"methods\.{name}\.stepps.*unknown key"):
        build(methods.load(name), {**block_of(name), "stepps": 1}, f"methods.{name}")
