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
from pipeline.classifier import Teacher
from pipeline.core.device import Compute
from pipeline.core.errors import TeacherError
from pipeline.core.params import build, read_params
from pipeline.core.rng import stream
from pipeline.methods import Attachment, BaseMethod, Batch, Fitted, Needs
from tests.support import CPU, ROOT, a_run, drawn, frozen

FOLDER = ROOT / "presets"
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
            data = {"data": params["data"]} if methods.load(name).needs.real else {}
            return {**shortened(params["methods"][name]), **data}
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
    return CPU.model_copy(update={"channels_last": True})


@pytest.fixture
def method(name: str) -> Any:
    return build(methods.load(name), block_of(name), f"methods.{name}")


def teacher_of(method: Any, norm: Any = nn.BatchNorm2d, head: bool = True) -> Teacher:
    data = getattr(method, "data", {})
    channels, size = data.get("channels", 1), data.get("size", 16)
    last = (nn.Flatten(), nn.Linear(96, 10)) if head else (nn.Conv2d(6, 10, 4), nn.Flatten())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(channels, 6, 3, padding=1), norm(6), nn.ReLU(), nn.AdaptiveAvgPool2d(4), *last
        )  # fmt: skip
    return frozen(net, channels=channels, size=size, mean=(0.4,) * channels, std=(0.3,) * channels)


@pytest.fixture
def teacher(method: Any) -> Teacher:
    return teacher_of(method)


@pytest.fixture
def source(method: Any, teacher: Teacher, compute: Compute, tmp_path: Path) -> Any:
    return method.fit(a_run(teacher, tmp_path, compute=compute))


def draw(source: Any, number: int = 0) -> Batch:
    return drawn(source, COUNT, number)


def test_a_method_is_a_frozen_block_without_defaults_that_says_what_it_needs(name: str) -> None:
    kind = methods.load(name)
    assert issubclass(kind, BaseMethod)
    assert all(field.is_required() for field in kind.model_fields.values())
    assert isinstance(kind.needs, Needs)
    assert isinstance(kind.soft_targets, bool)
    assert kind.needs.proxy == ("proxy" in kind.model_fields)
    assert kind.needs.real == ("data" in kind.model_fields)
    assert kind.__doc__
    assert kind.fit.__doc__


@pytest.mark.parametrize("lacking", ["batch_norm", "head"])
def test_what_a_method_needs_of_its_teacher_is_what_it_declares(name: str, method: Any, lacking: str, tmp_path: Path):
    without: dict[str, Any] = {"batch_norm": {"norm": lambda width: nn.GroupNorm(1, width)}, "head": {"head": False}}
    run = a_run(teacher_of(method, **without[lacking]), tmp_path)
    if getattr(method.needs, lacking):
        with pytest.raises(TeacherError):
            method.fit(run)
    elif name != "dafl" or lacking != "head":  # a key of it says which layer
        draw(method.fit(run))


def test_the_block_of_a_preset_has_no_problem(method: Any, teacher: Teacher) -> None:
    card = teacher.card
    assert method.check(card.channels, card.size, len(card.classes)) == []


def test_a_batch_is_images_in_range_and_distributions(method: Any, source: Any, teacher: Teacher) -> None:
    images, targets = draw(source)
    card = teacher.card
    assert images.shape == (COUNT, card.channels, card.size, card.size)
    assert images.dtype == torch.float32
    assert torch.isfinite(images).all()
    assert images.min() >= 0
    assert images.max() <= 1
    assert (targets is not None) == method.steered
    if targets is None:
        return
    assert targets.shape == (COUNT, len(card.classes))
    assert targets.dtype == torch.float32
    assert targets.min() >= 0
    torch.testing.assert_close(targets.sum(1), torch.ones(COUNT))


def test_the_same_arguments_give_the_same_batch_whatever_was_drawn_before(source: Any) -> None:
    first = draw(source, 0)
    other = draw(source, 1)
    again = draw(source, 0)
    assert torch.equal(first.images, again.images)
    assert first.targets is again.targets is None or torch.equal(first.targets, again.targets)
    assert not torch.equal(first.images, other.images)


def test_a_second_fit_gives_the_same_source(method: Any, teacher: Teacher, compute: Compute, tmp_path: Path) -> None:
    images = []
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        images.append(draw(method.fit(a_run(teacher, tmp_path / place, compute=compute))).images)
    assert torch.equal(*images)


def test_a_source_leaves_a_proxy_exactly_if_the_method_says_so(method: Any, source: Any) -> None:
    assert any(each.kind == "proxy" for each in attachments_of(source)) == method.needs.proxy


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
    again = method.fit(a_run(teacher, tmp_path / "again", compute=compute))
    resumed = method.fit(a_run(teacher, tmp_path, compute=compute))
    draw(resumed)  # drawing leaves no mark on them
    assert attachments_of(again) == attachments_of(resumed) == attachments_of(source)


def test_held_out_shards_differ_from_training_shards(source: Any) -> None:
    train, holdout = draw(source, 0), methods.draw(source, COUNT, stream(0, "holdout", 0), -1)
    assert not torch.equal(train.images, holdout.images)


def test_the_teacher_is_left_as_it_was_found(method: Any, teacher: Teacher, compute: Compute, tmp_path: Path) -> None:
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    draw(method.fit(a_run(teacher, tmp_path, compute=compute)))
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
