"""What holds for every generator method: who is changed, how often, equal seeds, power cuts, other precisions."""

import copy
import math
import multiprocessing
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.core.errors import MethodError, ParamsError
from pipeline.nets.generators import Generator
from pipeline.optimise import adversarial, learner
from pipeline.optimise.snapshots import Snapshots
from tests.support import (
    CPU,
    GENERATORS,
    OPTIMIZER,
    a_run,
    asked,
    calibrated_teacher,
    contents,
    fit_generator,
    fit_with_fault,
    frozen,
    generator_method,
    stepping,
    unchanged,
    weights,
)

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["torch", "tests.support", *(f"pipeline.methods.{name}" for name in GENERATORS)])
DUELS = ("zskt", "dfad")
POINTS = (
    "write:opened", "write:written", "write:synced", "write:replaced", "generator:snapshot", "generator:epoch",
)  # fmt: skip
ALL = pytest.mark.parametrize("name", GENERATORS)
BOTH = pytest.mark.parametrize("name", DUELS)


# Who is changed.


def hooks(*nets: torch.nn.Module) -> int:
    parts = [part for net in nets for part in net.modules()]
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in parts)


@ALL
def test_the_teacher_is_untouched_also_when_an_iteration_raises(name: str, tmp_path: Path, monkeypatch: Any) -> None:
    net = calibrated_teacher()
    before = copy.deepcopy(net.state_dict())
    plays: list[int] = []

    def fail(*seen: Any) -> None:
        plays.append(hooks(net))
        if len(plays) == 3:
            raise ZeroDivisionError

    monkeypatch.setattr(adversarial.Tally, "add", fail)
    terms = {"proxy": {"terms": {"attention": {"weight": 1.0, "blocks": "auto"}}}} if name == "zskt" else {}
    with pytest.raises(ZeroDivisionError):
        generator_method(name, **terms, iterations=3).fit(a_run(net, tmp_path))
    assert hooks(net) == 0
    assert (plays[0] > 0) == (name != "dfad")  # what looks inside it: DAFL's features, ZSKT's attention
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert all(value.grad is None and not value.requires_grad for value in net.parameters())
    assert not any(module.training for module in net.modules())


@BOTH
def test_a_generator_step_changes_no_weight_of_the_proxy_and_leaves_no_gradient(name: str) -> None:
    with stepping(name) as step:
        step.proxy.learner.step = lambda loss, number: None
        net, generator = step.proxy.bare, step.generator.net
        before, started, statistics = weights(net), weights(generator), net.bn1.running_mean.clone()
        step(0)
        assert unchanged(net, before)
        assert not unchanged(generator, started)
        assert not torch.equal(net.bn1.running_mean, statistics)  # in training mode
        assert all(value.grad is None for each in (net, generator, step.teacher) for value in each.parameters())


@BOTH
def test_proxy_steps_change_no_weight_of_the_generator_and_leave_no_gradient(name: str) -> None:
    with stepping(name) as step:
        step.generator.step = lambda loss, number: None
        net, generator = step.proxy.bare, step.generator.net
        before, started = weights(net), weights(generator)
        step(0)
        assert not unchanged(net, before)
        assert unchanged(generator, started)
        assert all(value.grad is None for each in (net, generator, step.teacher) for value in each.parameters())


# How often.


@ALL
@pytest.mark.parametrize("turns", [1, 3])
def test_each_network_takes_as_many_steps_as_declared_along_a_schedule_of_that_length(
    name: str, turns: int, tmp_path: Path, monkeypatch: Any
) -> None:
    rates: dict[float, list[float]] = {}
    plain = learner.rate

    def watched(params: Any, number: int, steps: int, warmup: float) -> float:
        found = plain(params, number, steps, warmup)
        rates.setdefault(params.learning_rate, []).append(found / params.learning_rate)
        return found

    monkeypatch.setattr(learner, "rate", watched)
    # A cosine; the highest rate tells the networks apart.
    own = {"student_steps": turns, "proxy": {"optimizer": {**OPTIMIZER, "learning_rate": 0.02}}}
    fit_generator(name, tmp_path, epochs=5, iterations=4, **(own if name in DUELS else {}))
    lengths = {0.01: 20, 0.02: 20 * turns} if name in DUELS else {0.01: 20}
    assert {learning_rate: len(found) for learning_rate, found in rates.items()} == lengths
    for found in rates.values():
        expected = [(1 + math.cos(math.pi * step / len(found))) / 2 for step in range(len(found))]
        assert found == pytest.approx(expected)
        assert found[-1] < 0.01


@BOTH
@pytest.mark.parametrize("part", ["generator", "proxy"])
def test_each_network_is_clipped_by_its_own_norm(name: str, part: str) -> None:
    clipped = {"name": "sgd", "momentum": 0.0, "learning_rate": 1.0, "clip_norm": 1e-3, "schedule": "constant"}
    blocks = {"generator": {"optimizer": clipped}, "proxy": {"proxy": {"optimizer": clipped}}}
    with stepping(name, student_steps=1, **blocks[part]) as step:
        for other in set(step.learners) - {part}:
            step.learners[other].step = lambda loss, number: None
        net = step.learners[part].net
        before = weights(net)
        step(0)
        moved = torch.stack([(new - old).norm() for new, old in zip(net.parameters(), before, strict=True)]).norm()
    assert moved.item() == pytest.approx(1e-3, rel=1e-2)


# Equal seeds, equal bytes; power cuts.


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of each method, everything that an undisturbed fit is for."""
    folder = tmp_path_factory.mktemp("golden")
    return {name: contents(fit_generator(name, folder / name)) for name in GENERATORS}


@ALL
def test_another_seed_gives_other_generators_and_other_images(name: str, golden: Any, tmp_path: Path) -> None:
    again, other = (
        contents(fit_generator(name, tmp_path / "again")),
        contents(fit_generator(name, tmp_path / "other", seed=1)),
    )
    assert again == golden[name]
    assert not any(ours == theirs for ours, theirs in zip(golden[name][:-2], other[:-2], strict=True))


def killed(name: str, folder: Path, fault: str) -> BaseProcess:
    process = CONTEXT.Process(target=fit_with_fault, args=(name, folder, fault))
    process.start()
    process.join()
    return process


def try_every(name: str, point: str, passages: range, folder: Path, golden: Any) -> int:
    """How often a fit passes the point; after each cut the next fit must end as the undisturbed one."""
    for passage in passages:
        there = folder / f"{point}-{passage}".replace(":", "-")
        process = killed(name, there, f"{point}:{passage}")
        if process.exitcode == 0:
            return passage - 1
        assert process.exitcode == 137
        assert contents(fit_generator(name, there)) == golden[name]
        names = sorted(path.name for path in there.iterdir() if not path.name.endswith(".tmp"))
        assert names == [
            "fit-generator-0001.safetensors", "fit-generator-0003.safetensors", "fit.safetensors",
        ]  # fmt: skip
    return passages[-1]


@ALL
@pytest.mark.parametrize("fault", ["generator:snapshot:2", "generator:epoch:1", "write:written:3"])
def test_a_fit_that_was_cut_off_ends_as_if_nothing_had_happened(
    name: str, fault: str, golden: Any, tmp_path: Path
) -> None:
    point, _, passage = fault.rpartition(":")
    assert try_every(name, point, range(int(passage), int(passage) + 1), tmp_path, golden) == int(passage)


@pytest.mark.slow
@ALL
@pytest.mark.parametrize("point", POINTS)
def test_a_fit_that_was_cut_off_at_any_passage_of_a_point_ends_as_if_nothing_had_happened(
    name: str, point: str, golden: Any, tmp_path: Path
) -> None:
    found = try_every(name, point, range(1, 100), tmp_path, golden)
    assert found == (5 if point.startswith("write") else 3)  # two snapshots and three states; three epochs


# Other precisions and layouts; collapse.


@ALL
@pytest.mark.parametrize("changes", [{"precision": "bfloat16"}, {"channels_last": True}])
def test_another_precision_or_layout_asks_for_nearly_the_same(name: str, changes: dict[str, Any]) -> None:
    found = []
    for compute in (CPU, CPU.model_copy(update=changes)):
        with stepping(name, compute=compute, batch=16) as step:
            steps = asked(step)
            step(0)
            parameters = {part: list(each.net.parameters()) for part, each in step.learners.items()}
            gradients = [torch.autograd.grad(each.loss, parameters[each.name]) for each in steps]
        found.append(([each.loss.item() for each in steps], gradients))
    (losses, gradients), (others, theirs) = found
    assert others == pytest.approx(losses, rel=0.05, abs=0.02)
    for ours, mine in zip(gradients, theirs, strict=True):
        one, other = (torch.cat([gradient.flatten() for gradient in each]) for each in (ours, mine))
        assert torch.cosine_similarity(one, other, dim=0) > (0.9 if "precision" in changes else 0.9999)


class Stubborn(torch.nn.Module):
    """Sees the first class in everything, or nothing at all."""

    def __init__(self, logit: float) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(64, 10)
        self.logit = logit

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.linear(images.flatten(1)) + self.logit * torch.eye(10)[0]


@ALL
@pytest.mark.parametrize(
    ("logit", "reason"), [(1e4, "epoch 3: the generator collapsed: the teacher sees one class"), (math.nan, "is nan")]
)
def test_a_teacher_that_says_nothing_stops_the_fit(name: str, logit: float, reason: str, tmp_path: Path) -> None:
    with pytest.raises(MethodError, match=rf"methods.{name}: .*{reason}"):
        generator_method(name).fit(a_run(frozen(Stubborn(logit)), tmp_path))


@ALL
@pytest.mark.parametrize("augment", [None, {"rotate": 25, "translate": 0.15, "scale": [0.7, 1.4], "fill": "border"}])
def test_a_generator_that_makes_one_picture_stops_the_fit_whatever_the_augmentation(
    name: str, augment: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    forward = Generator.forward
    monkeypatch.setattr(Generator, "forward", lambda net, noise: forward(net, noise)[:1].expand(len(noise), -1, -1, -1))
    with pytest.raises(MethodError, match=rf"methods.{name}: epoch 3: the generator collapsed: all its images"):
        fit_generator(name, tmp_path, augment=augment, clamp=True)


@ALL
def test_a_teacher_whose_images_the_generator_cannot_make_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=rf"methods.{name}.generator: images of 10 pixels; expected a multiple of 4"):
        generator_method(name).fit(a_run(frozen(Stubborn(0), size=10), tmp_path))


@ALL
def test_a_fit_is_a_source_whose_states_are_the_declared_ones(name: str, tmp_path: Path) -> None:
    snapshots = {"states": 2, "since": 0.5}
    source = fit_generator(name, tmp_path, epochs=4, iterations=1, snapshots=snapshots, bn_mode="train")
    assert isinstance(source, Snapshots)
    assert source.epochs == (3, 4)
    assert (source.proxy is None) == (name not in DUELS)
    assert len(source.history) == 4
