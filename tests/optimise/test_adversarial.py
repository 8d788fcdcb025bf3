"""What all generator methods share: random numbers, the proxy, epochs that resume, snapshots, health."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load
from torch import nn

from pipeline import nets
from pipeline.classifier import Teacher
from pipeline.core.checkpoint import Checkpoint
from pipeline.core.errors import MethodError, ParamsError, TeacherError, WorkError
from pipeline.core.params import build
from pipeline.core.rng import stream
from pipeline.optimise.adversarial import Latents, Outputs, Proxy, ProxyStudent
from pipeline.optimise.augment import augment_with
from pipeline.optimise.learner import Learner
from tests.support import OPTIMIZER, Toy, ToyStep, a_run, frozen, generator_method, toy


@pytest.fixture
def teacher() -> Teacher:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 6 * 6, 3))
    return frozen(net, classes=3, mean=(0.5,), std=(0.25,))


@pytest.fixture
def kept(tmp_path: Path) -> Checkpoint:
    return Checkpoint(tmp_path / "fit.safetensors")


def fit(method: Toy, teacher: Teacher, checkpoint: Checkpoint) -> Any:
    return method.fit(a_run(teacher)._replace(checkpoint=checkpoint))


# Noise and augmentation.


def latents_of(method: Toy, teacher: Teacher, seed: int, number: int, batches: int = 1) -> list[Latents]:
    return method.start(a_run(teacher), seed).latents(number, batches)


def test_an_iterations_random_numbers_depend_on_seed_and_step_alone(teacher: Teacher) -> None:
    method = toy(batch=500)
    first, second = latents_of(method, teacher, 0, 7, 2)
    again = latents_of(method, teacher, 0, 7, 2)
    assert torch.equal(first.noise, again[0].noise)
    assert torch.equal(second.augment, again[1].augment)
    for other in (second, latents_of(method, teacher, 1, 7, 2)[0], latents_of(method, teacher, 0, 8, 2)[0]):
        assert not torch.equal(first.noise, other.noise)
        assert not torch.equal(first.augment, other.augment)
    assert first.noise.shape == (500, 5)
    assert abs(first.noise.mean()) < 0.1
    assert abs(first.noise.std() - 1) < 0.1
    assert first.augment.min() >= 0
    assert first.augment.max() < 1


@pytest.mark.parametrize("clamp", [True, False])
@pytest.mark.parametrize("flip", [True, False])
def test_networks_see_the_clamped_image_augmented_and_the_raw_one_is_kept(
    teacher: Teacher, clamp: bool, flip: bool
) -> None:
    method = toy(clamp=clamp, augment={"flip": flip, "crop": 1}, batch=32)
    step = method.start(a_run(teacher), 0)
    (latents,) = step.latents(0, 1)
    raw, seen = step.images(latents)
    assert torch.equal(raw, step.generator.net(latents.noise))
    assert raw.min() < 0
    assert raw.max() > 1
    assert torch.equal(seen, augment_with(raw.clamp(0, 1) if clamp else raw, method.augment, latents.augment))
    images, label = step.labelled(latents)
    assert torch.equal(images, seen)
    assert torch.equal(label, teacher(seen))
    assert not images.requires_grad
    assert not label.requires_grad


def test_a_batch_of_one_image_is_refused() -> None:
    block = toy().model_dump(mode="json")
    build(Toy, block, "methods.toy")
    with pytest.raises(ParamsError, match=r"methods.toy.batch: 1: .*greater than or equal to 2"):
        build(Toy, {**block, "batch": 1}, "methods.toy")


# Epochs.


def test_the_history_holds_each_epochs_means(teacher: Any, kept: Checkpoint, monkeypatch: Any) -> None:
    seen: list[list[float]] = []

    def look(step: int, outputs: Outputs) -> Outputs:
        seen.append(
            [outputs.scores["loss"].item(), outputs.scores["luck"].item(), outputs.raw.clamp(0, 1).std(0).mean().item()]
        )
        return outputs

    monkeypatch.setattr(ToyStep, "seen", staticmethod(look))
    source = fit(toy(epochs=3, iterations=4), teacher, kept)
    means = np.array(seen).reshape(3, 4, 3).mean(1)
    found = [[row["loss"], row["luck"], row["spread"]] for row in source.history]
    np.testing.assert_allclose(found, means, rtol=1e-5)
    assert [row["epoch"] for row in source.history] == [1, 2, 3]
    assert means[-1, 0] < means[0, 0]  # it learned
    assert len({luck for _, luck, _ in seen}) == 12  # layers draw other numbers in each epoch


def attached(source: Any) -> list[Any]:
    return [(name, dict(facts), content) for name, _, facts, content in source.attachments()]


@pytest.mark.parametrize("step", [0, 2, 3, 7, 11])
def test_a_fit_that_died_in_any_epoch_ends_as_if_it_had_not(
    teacher: Any, kept: Checkpoint, tmp_path: Path, monkeypatch: Any, step: int
) -> None:
    method = toy(states=4)
    expected = attached(fit(method, teacher, Checkpoint(tmp_path / "golden")))

    def die(at: int, outputs: Outputs) -> Outputs:
        if at == step:
            raise ZeroDivisionError
        return outputs

    before = torch.get_rng_state()
    monkeypatch.setattr(ToyStep, "seen", staticmethod(die))
    with pytest.raises(ZeroDivisionError):
        fit(method, teacher, kept)
    steps: list[int] = []
    monkeypatch.setattr(ToyStep, "seen", staticmethod(lambda at, outputs: (steps.append(at), outputs)[1]))
    assert attached(fit(method, teacher, kept)) == expected
    assert steps == list(range(step // 3 * 3, 12))  # from the epoch that it died in
    assert torch.equal(torch.get_rng_state(), before)


def test_a_finished_fit_is_not_trained_again(teacher: Any, kept: Checkpoint, monkeypatch: Any) -> None:
    method = toy(states=2)
    first = attached(fit(method, teacher, kept))
    written = {path: path.stat().st_mtime_ns for path in kept.path.parent.iterdir()}
    monkeypatch.setattr(ToyStep, "__call__", None)
    assert attached(fit(method, teacher, kept)) == first
    assert {path: path.stat().st_mtime_ns for path in kept.path.parent.iterdir()} == written


def test_lines_go_to_stderr_some_twenty_in_a_training_and_always_the_last(
    teacher: Any, kept: Checkpoint, capsys: Any
) -> None:
    slow = {**OPTIMIZER, "learning_rate": 1e-5}  # nothing happens that would end it
    fit(toy(epochs=45, iterations=1, optimizer=slow), teacher, kept)
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert [line.split(",")[0].split(": teacher")[0] for line in lines] == [
        f"support: epoch {epoch} of 45" for epoch in (*range(2, 45, 2), 45)
    ]


# Snapshots.


@pytest.mark.parametrize(
    ("epochs", "states", "since", "expected"),
    [
        (10, 1, 0.0, (10,)),
        (10, 1, 0.9, (10,)),
        (10, 5, 0.0, (2, 4, 6, 8, 10)),
        (10, 5, 0.5, (6, 7, 8, 9, 10)),
        (10, 3, 0.25, (4, 7, 10)),
        (7, 2, 0.3, (4, 7)),
        (3, 3, 0.0, (1, 2, 3)),
    ],
)
def test_snapshots_are_evenly_spaced_after_the_start_and_end_with_the_last_epoch(
    teacher: Any, kept: Checkpoint, epochs: int, states: int, since: float, expected: tuple[int, ...]
) -> None:
    source = fit(toy(states, since, epochs=epochs, iterations=1, batch=2), teacher, kept)
    assert source.epochs == expected
    generators = [each for each in source.attachments() if each.kind == "generator"]
    assert tuple(each.facts["epoch"] for each in generators) == expected
    assert len({each.content for each in generators}) == states


def test_a_snapshot_is_the_generator_as_it_was_then_and_the_last_is_the_final_one(
    teacher: Any, kept: Checkpoint, tmp_path: Path
) -> None:
    source = fit(toy(states=4), teacher, kept)
    state = kept.load()
    assert state is not None
    final = load(source.attachments()[3].content)
    assert all(torch.equal(value, final[name]) for name, value in state["learners"]["generator"]["net"].items())
    # A training of half the length, with the same constant rate, ends where the long one passed.
    short = fit(toy(epochs=2), teacher, Checkpoint(tmp_path / "short"))
    assert short.attachments()[0].content == source.attachments()[1].content


@pytest.mark.parametrize(("epochs", "states", "since"), [(4, 5, 0.0), (4, 3, 0.5), (1, 2, 0.0)])
def test_more_snapshots_than_epochs_are_refused_before_training(
    teacher: Any, kept: Checkpoint, epochs: int, states: int, since: float, monkeypatch: Any
) -> None:
    monkeypatch.setattr(ToyStep, "__call__", None)
    with pytest.raises(ParamsError, match=rf"methods.support.snapshots.states: {states}: only . of {epochs} epochs"):
        fit(toy(states, since, epochs=epochs), teacher, kept)


@pytest.mark.parametrize(
    ("victim", "damage", "reason"),
    [
        ("fit-generator-0002.safetensors", Path.unlink, "gone; delete .*fit.safetensors too"),
        ("fit-generator-0002.safetensors", lambda path: path.write_bytes(b"{}"), "damaged checkpoint"),
        ("fit-generator-0004.safetensors", lambda path: path.write_bytes(path.read_bytes()[:-9]), "damaged checkpoint"),
        ("fit.safetensors", lambda path: path.write_bytes(b""), "damaged checkpoint"),
    ],
)  # fmt: skip
def test_what_is_gone_or_damaged_is_an_error_that_names_it_and_its_cure_helps(
    teacher: Any, kept: Checkpoint, victim: str, damage: Any, reason: str
) -> None:
    method = toy(states=2)
    first = attached(fit(method, teacher, kept))
    damage(kept.path.with_name(victim))
    with pytest.raises(WorkError, match=rf"{victim}: {reason}"):
        fit(method, teacher, kept)
    kept.path.with_name(victim).unlink(missing_ok=True)
    if victim != kept.path.name:
        with pytest.raises(WorkError, match="gone"):
            fit(method, teacher, kept)
        kept.path.unlink()
    assert attached(fit(method, teacher, kept)) == first


# Health.


def one_class(outputs: Outputs) -> Outputs:
    return outputs._replace(teacher=torch.eye(3)[[1] * len(outputs.teacher)])


COLLAPSES = {
    "one class": (one_class, "sees one class"),
    "constant images": (lambda outputs: outputs._replace(raw=outputs.raw[:1].expand_as(outputs.raw)), "are the same"),
}


@pytest.mark.parametrize(("collapse", "reason"), COLLAPSES.values(), ids=COLLAPSES)
@pytest.mark.parametrize("length", [2, 3])
def test_three_collapsed_epochs_end_a_training_and_two_do_not(
    teacher: Any, kept: Checkpoint, monkeypatch: Any, collapse: Any, reason: str, length: int
) -> None:
    bad = range(1, 1 + length)  # epochs, of three steps

    def look(step: int, outputs: Outputs) -> Outputs:
        return collapse(outputs) if step // 3 in bad else outputs

    monkeypatch.setattr(ToyStep, "seen", staticmethod(look))
    method = toy(epochs=6)
    if length == 2:
        assert fit(method, teacher, kept).epochs == (6,)
        return
    for _ in range(2):  # running it again does not help
        with pytest.raises(MethodError, match=rf"methods.support: epoch 4: .*{reason}"):
            fit(method, teacher, kept)
    state = kept.load()
    assert state is not None
    assert len(state["history"]) == 3
    assert [path.name for path in kept.path.parent.iterdir()] == [kept.path.name]  # no snapshot


def test_a_loss_that_is_not_a_number_ends_the_training_at_once(
    teacher: Any, kept: Checkpoint, monkeypatch: Any
) -> None:
    def look(step: int, outputs: Outputs) -> Outputs:
        return outputs._replace(scores={**outputs.scores, "loss": torch.tensor(math.nan)}) if step == 4 else outputs

    monkeypatch.setattr(ToyStep, "seen", staticmethod(look))
    with pytest.raises(MethodError, match=r"methods.support: epoch 2: loss is nan"):
        fit(toy(), teacher, kept)


def test_a_generator_that_its_very_last_step_broke_is_not_drawn_from(
    teacher: Any, kept: Checkpoint, monkeypatch: Any
) -> None:
    last = toy().steps - 1
    learn = Learner.step
    monkeypatch.setattr(
        Learner, "step", lambda self, loss, number: learn(self, loss * (math.nan if number == last else 1), number)
    )
    with pytest.raises(MethodError, match=r"methods.support: epoch 4: weights of the generator are not finite"):
        fit(toy(), teacher, kept)


def test_one_picture_is_seen_through_the_augmentation_that_makes_it_look_like_many(
    teacher: Any, kept: Checkpoint, monkeypatch: Any
) -> None:
    """Rotated, moved and zoomed, one picture has a spread of 0.1 and more."""
    presets = {"rotate": 25, "translate": 0.15, "scale": [0.7, 1.4], "fill": "border"}

    def one_picture(step: ToyStep, latents: Latents) -> Any:
        raw = step.generator.net(latents.noise)[:1].expand(len(latents.noise), -1, -1, -1)
        return raw, augment_with(raw.clamp(0, 1), step._params.augment, latents.augment)

    monkeypatch.setattr(ToyStep, "images", one_picture)
    with pytest.raises(MethodError, match="epoch 3: the generator collapsed: all its images are the same"):
        fit(toy(augment=presets, clamp=True, batch=16, epochs=6), teacher, kept)


def test_pictures_that_differ_beyond_what_is_stored_alone_are_the_same(
    teacher: Any, kept: Checkpoint, monkeypatch: Any
) -> None:
    def too_bright(step: ToyStep, latents: Latents) -> Any:
        raw = step.generator.net(latents.noise).abs() + 1.5
        return raw, raw.clamp(0, 1)

    monkeypatch.setattr(ToyStep, "images", too_bright)
    with pytest.raises(MethodError, match=r"all its images are the same .*100% of the pixels beyond"):
        fit(toy(epochs=6), teacher, kept)


# The proxy.

BOUNDARY = {"activation_boundary": {"weight": 1.0, "margin": 1.0, "blocks": [["layer1", "layer2"]]}}


@pytest.fixture
def residual() -> Teacher:
    return frozen(nets.build("resnet8", 3, 1, 8, rng=stream(5, "teacher")), classes=3, mean=(0.5,), std=(0.25,))


def proxy(teacher: Teacher, seed: int = 0, arch: str = "resnet8", **terms: Any) -> ProxyStudent:
    block = {"arch": arch, "optimizer": OPTIMIZER, "loss": {"kl": {"temperature": 1}}, "terms": terms}
    return ProxyStudent(build(Proxy, block, "proxy"), a_run(teacher), 12, seed)


def test_the_proxy_is_in_training_mode_and_sees_images_as_the_teacher_normalises_them(residual: Teacher) -> None:
    made = proxy(residual)
    assert made.arch == "resnet8"
    assert all(module.training for module in made.bare.modules())
    assert not any(module.training for module in residual.modules())
    images = torch.rand(4, 1, 8, 8)
    torch.testing.assert_close(made.net(images), made.bare((images - 0.5) / 0.25))
    assert not made.ask(images.requires_grad_()).requires_grad


def test_a_proxys_weights_and_connectors_depend_on_the_seed_alone(residual: Teacher) -> None:
    first, again, other = (proxy(residual, seed, **BOUNDARY).learner.net for seed in (0, 0, 1))
    ours, same, different = (net.state_dict() for net in (first, again, other))
    assert all(torch.equal(value, same[key]) for key, value in ours.items())
    drawn = [key for key, value in first.named_parameters() if value.dim() > 1]
    assert any("terms" in key for key in drawn)
    assert not any(torch.equal(ours[key], different[key]) for key in drawn)


def test_connectors_learn_with_the_proxy_and_are_not_part_of_it(residual: Teacher) -> None:
    made, plain = proxy(residual, **BOUNDARY), proxy(residual)
    assert made.bare.state_dict().keys() == plain.bare.state_dict().keys()
    connectors = {id(value) for value in made.loss.parameters()}
    assert connectors
    mine = {id(value) for value in made.learner.parameters}
    assert mine == connectors | {id(value) for value in made.bare.parameters()}


def test_named_blocks_that_are_not_there_are_refused(residual: Teacher) -> None:
    with pytest.raises(TeacherError, match="no submodule 'layer9'"):
        proxy(residual, attention={"weight": 1.0, "blocks": [["layer1", "layer9"]]})


# What is found before anything runs.


@pytest.mark.parametrize(
    ("changes", "size", "line"),
    [
        ({}, 10, r"methods.zskt.generator: images of 10 pixels; expected a multiple of 4"),
        ({"proxy": {"arch": "lenet5"}}, 8, r"methods.zskt.proxy.arch: lenet5: size is 8, needs at least 12"),
        ({"proxy": {"arch": "resnetseven"}}, 8, r"methods.zskt.proxy.arch: resnetseven: no such architecture"),
        ({"proxy": {"loss": {"cross_entropy": {}}}}, 8, r"methods.zskt.proxy.loss: cross_entropy takes true classes"),
        ({"snapshots": {"states": 4, "since": 0}}, 8, r"methods.zskt.snapshots.states: 4: only 3 of 3 epochs come"),
    ],
)
def test_problems_are_named_with_their_keys(changes: dict[str, Any], size: int, line: str) -> None:
    assert generator_method("zskt").check(1, 8, 10) == []
    method = generator_method("zskt", **changes)
    (found,) = method.check(1, size, 10)
    with pytest.raises(ParamsError, match=line):
        method.fit(a_run(frozen(nn.Linear(2, 2), size=size)))
    assert found.startswith("methods.zskt.")
