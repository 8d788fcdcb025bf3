"""What all generator methods share: steps, noise, views, epochs that resume, snapshots, health."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load
from torch import nn
from toy_game import OFF, SHAPE, ToyGame, fit, toy, updates

from pipeline.augment import view
from pipeline.core.checkpoint import Checkpoint
from pipeline.core.errors import MethodError, ParamsError, WorkError
from pipeline.core.params import build
from pipeline.nets.generators import build_generator
from pipeline.synthesis.generating import Play, Side, latents_of, paint

CPU = torch.device("cpu")


@pytest.fixture
def kept(tmp_path: Path) -> Checkpoint:
    return Checkpoint(tmp_path / "fit.safetensors")


# One side's step.


def linear(seed: int = 0) -> nn.Module:
    net = nn.Linear(3, 2)
    for weights in net.parameters():
        nn.init.normal_(weights, generator=torch.Generator().manual_seed(seed))
    return net


@pytest.mark.parametrize("clip", [None, 0.01, 1e6])
def test_a_sides_steps_are_those_of_momentum_on_the_clipped_gradient(clip: float | None) -> None:
    net, images = linear(), torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    side = Side(net, updates(optimiser="sgd", learning_rate=0.1, momentum=0.9, clip_norm=clip), steps=4)
    x, weight, bias = images.double().numpy(), net.weight.detach().double().numpy(), net.bias.detach().double().numpy()
    velocity = [np.zeros((2, 3)), np.zeros(2)]
    for step in range(4):
        residual = x @ weight.T + bias  # of mean (x W' + b)^2 / 2
        gradients = [residual.T @ x / 10, residual.sum(0) / 10]
        norm = math.sqrt(sum((gradient**2).sum() for gradient in gradients))
        factor = min(1, (clip or math.inf) / norm)
        velocity = [0.9 * old + factor * gradient for old, gradient in zip(velocity, gradients, strict=True)]
        weight, bias = weight - 0.1 * velocity[0], bias - 0.1 * velocity[1]
        side.learn(net(images).square().mean() / 2, step)
    np.testing.assert_allclose(net.weight.detach().numpy(), weight, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(net.bias.detach().numpy(), bias, rtol=1e-4, atol=1e-6)


def test_clipping_bounds_the_whole_gradient_of_a_side() -> None:
    net = linear()
    before = nn.utils.parameters_to_vector(net.parameters()).detach()
    side = Side(net, updates(optimiser="sgd", learning_rate=1.0, momentum=0.0, clip_norm=0.25), steps=1)
    side.learn(1000 * net(torch.ones(1, 3)).sum(), 0)
    moved = nn.utils.parameters_to_vector(net.parameters()).detach() - before
    assert moved.norm().item() == pytest.approx(0.25, rel=1e-5)


def test_a_sides_schedule_is_as_long_as_it_was_told() -> None:
    net = nn.Linear(1, 1)
    cosine = updates(optimiser="sgd", learning_rate=1.0, momentum=0.0, schedule="cosine")
    side, rates = Side(net, cosine, steps=50), []
    for step in range(50):
        before = net.bias.item()
        side.learn(net.bias.sum(), step)  # a gradient of 1
        rates.append(before - net.bias.item())
    np.testing.assert_allclose(rates, [(1 + math.cos(math.pi * step / 50)) / 2 for step in range(50)], atol=1e-6)
    assert rates[-1] < 0.001


def test_a_step_of_one_side_leaves_every_other_network_alone() -> None:
    one, other = linear(0), linear(1)
    side = Side(one, updates(), steps=1)
    before = [weights.clone() for weights in other.parameters()]
    mine = one.weight.clone()
    side.learn(other(one(torch.ones(2, 3)) @ torch.ones(2, 3)).square().sum(), 0)
    assert not torch.equal(one.weight, mine)
    assert all(torch.equal(*pair) for pair in zip(before, other.parameters(), strict=True))
    assert all(weights.grad is None for net in (one, other) for weights in net.parameters())


# Noise and views.


def test_an_iterations_random_numbers_depend_on_seed_and_step_alone() -> None:
    method = toy(batch=500)
    first, second = latents_of(method, 0, 7, 2, CPU)
    again = latents_of(method, 0, 7, 2, CPU)
    assert torch.equal(first.noise, again[0].noise)
    assert torch.equal(second.views, again[1].views)
    for other in (second, latents_of(method, 1, 7, 2, CPU)[0], latents_of(method, 0, 8, 2, CPU)[0]):
        assert not torch.equal(first.noise, other.noise)
        assert not torch.equal(first.views, other.views)
    assert first.noise.shape == (500, 5)
    assert abs(first.noise.mean()) < 0.1
    assert abs(first.noise.std() - 1) < 0.1
    assert first.views.min() >= 0
    assert first.views.max() < 1


@pytest.mark.parametrize("clamp", [True, False])
@pytest.mark.parametrize("flip", [True, False])
def test_networks_see_a_view_of_the_clamped_image(clamp: bool, flip: bool) -> None:
    views = OFF.model_copy(update={"flip": flip, "crop": 1})
    method = toy(clamp=clamp, views=views, batch=32)
    net = build_generator(SHAPE, (0.5,), (0.5,), 8, torch.Generator().manual_seed(0))
    (latents,) = latents_of(method, 0, 0, 1, CPU)
    images = net(latents.noise)
    assert images.min() < 0
    assert images.max() > 1
    expected = view(images.clamp(0, 1) if clamp else images, views, latents.views)
    assert torch.equal(paint(method, net, latents), expected)


def test_a_batch_of_one_image_is_refused() -> None:
    block = toy().model_dump(mode="json")
    build(type(toy()), block, "methods.toy")
    with pytest.raises(ParamsError, match=r"methods.toy.batch: 1: .*greater than or equal to 2"):
        build(type(toy()), {**block, "batch": 1}, "methods.toy")


# Epochs.


def test_the_history_holds_each_epochs_means(teacher: Any, compute: Any, kept: Checkpoint, monkeypatch: Any) -> None:
    seen: list[list[float]] = []

    def look(step: int, play: Play) -> Play:
        seen.append([play.scores["loss"].item(), play.scores["luck"].item(), play.images.std(0).mean().item()])
        return play

    monkeypatch.setattr(ToyGame, "seen", staticmethod(look))
    source = fit(toy(epochs=3, iterations=4), teacher, kept, compute)
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
    teacher: Any, compute: Any, kept: Checkpoint, tmp_path: Path, monkeypatch: Any, step: int
) -> None:
    method = toy(states=4)
    expected = attached(fit(method, teacher, Checkpoint(tmp_path / "golden"), compute))

    def die(at: int, play: Play) -> Play:
        if at == step:
            raise ZeroDivisionError
        return play

    before = torch.get_rng_state()
    monkeypatch.setattr(ToyGame, "seen", staticmethod(die))
    with pytest.raises(ZeroDivisionError):
        fit(method, teacher, kept, compute)
    steps: list[int] = []
    monkeypatch.setattr(ToyGame, "seen", staticmethod(lambda at, play: (steps.append(at), play)[1]))
    assert attached(fit(method, teacher, kept, compute)) == expected
    assert steps == list(range(step // 3 * 3, 12))  # from the epoch that it died in
    assert torch.equal(torch.get_rng_state(), before)


def test_a_finished_fit_is_not_trained_again(teacher: Any, compute: Any, kept: Checkpoint, monkeypatch: Any) -> None:
    method = toy(states=2)
    first = attached(fit(method, teacher, kept, compute))
    written = {path: path.stat().st_mtime_ns for path in kept.path.parent.iterdir()}
    monkeypatch.setattr(ToyGame, "play", None)
    assert attached(fit(method, teacher, kept, compute)) == first
    assert {path: path.stat().st_mtime_ns for path in kept.path.parent.iterdir()} == written


def test_lines_go_to_stderr_some_twenty_in_a_training_and_always_the_last(
    teacher: Any, compute: Any, kept: Checkpoint, capsys: Any
) -> None:
    fit(toy(epochs=45, iterations=1), teacher, kept, compute)
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert [line.split(",")[0].split(": teacher")[0] for line in lines] == [
        f"toy_game: epoch {epoch} of 45" for epoch in (*range(2, 45, 2), 45)
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
    teacher: Any, compute: Any, kept: Checkpoint, epochs: int, states: int, since: float, expected: tuple[int, ...]
) -> None:
    source = fit(toy(states, since, epochs=epochs, iterations=1, batch=2), teacher, kept, compute)
    assert source.epochs == expected
    generators = [each for each in source.attachments() if each.kind == "generator"]
    assert tuple(each.facts["epoch"] for each in generators) == expected
    assert len({each.content for each in generators}) == states


def test_a_snapshot_is_the_generator_as_it_was_then_and_the_last_is_the_final_one(
    teacher: Any, compute: Any, kept: Checkpoint, tmp_path: Path
) -> None:
    source = fit(toy(states=4), teacher, kept, compute)
    state = kept.load()
    assert state is not None
    final = load(source.attachments()[3].content)
    assert all(torch.equal(value, final[name]) for name, value in state["sides"]["generator"]["net"].items())
    # A training of half the length, with the same constant rate, ends where the long one passed.
    short = fit(toy(epochs=2), teacher, Checkpoint(tmp_path / "short"), compute)
    assert short.attachments()[0].content == source.attachments()[1].content


@pytest.mark.parametrize(("epochs", "states", "since"), [(4, 5, 0.0), (4, 3, 0.5), (1, 2, 0.0)])
def test_more_snapshots_than_epochs_are_refused_before_training(
    teacher: Any, compute: Any, kept: Checkpoint, epochs: int, states: int, since: float, monkeypatch: Any
) -> None:
    monkeypatch.setattr(ToyGame, "play", None)
    with pytest.raises(ParamsError, match=rf"methods.toy_game.snapshots.states: {states}: only . of {epochs} epochs"):
        fit(toy(states, since, epochs=epochs), teacher, kept, compute)


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
    teacher: Any, compute: Any, kept: Checkpoint, victim: str, damage: Any, reason: str
) -> None:
    method = toy(states=2)
    first = attached(fit(method, teacher, kept, compute))
    damage(kept.path.with_name(victim))
    with pytest.raises(WorkError, match=rf"{victim}: {reason}"):
        fit(method, teacher, kept, compute)
    kept.path.with_name(victim).unlink(missing_ok=True)
    if victim != kept.path.name:
        with pytest.raises(WorkError, match="gone"):
            fit(method, teacher, kept, compute)
        kept.path.unlink()
    assert attached(fit(method, teacher, kept, compute)) == first


# Health.


def one_class(play: Play) -> Play:
    return play._replace(teacher=torch.eye(3)[[1] * len(play.teacher)])


COLLAPSES = {
    "one class": (one_class, "sees one class"),
    "constant images": (lambda play: play._replace(images=play.images[:1].expand_as(play.images)), "are the same"),
}


@pytest.mark.parametrize(("collapse", "reason"), COLLAPSES.values(), ids=COLLAPSES)
@pytest.mark.parametrize("length", [2, 3])
def test_three_collapsed_epochs_end_a_training_and_two_do_not(
    teacher: Any, compute: Any, kept: Checkpoint, monkeypatch: Any, collapse: Any, reason: str, length: int
) -> None:
    bad = range(1, 1 + length)  # epochs, of three steps

    def look(step: int, play: Play) -> Play:
        return collapse(play) if step // 3 in bad else play

    monkeypatch.setattr(ToyGame, "seen", staticmethod(look))
    method = toy(epochs=6)
    if length == 2:
        assert fit(method, teacher, kept, compute).epochs == (6,)
        return
    for _ in range(2):  # running it again does not help
        with pytest.raises(MethodError, match=rf"methods.toy_game: epoch 4: .*{reason}"):
            fit(method, teacher, kept, compute)
    state = kept.load()
    assert state is not None
    assert len(state["history"]) == 3
    assert [path.name for path in kept.path.parent.iterdir()] == [kept.path.name]  # no snapshot


def test_a_loss_that_is_not_a_number_ends_the_training_at_once(
    teacher: Any, compute: Any, kept: Checkpoint, monkeypatch: Any
) -> None:
    def look(step: int, play: Play) -> Play:
        return play._replace(scores={**play.scores, "loss": torch.tensor(math.nan)}) if step == 4 else play

    monkeypatch.setattr(ToyGame, "seen", staticmethod(look))
    with pytest.raises(MethodError, match=r"methods.toy_game: epoch 2: loss is nan"):
        fit(toy(), teacher, kept, compute)


def test_a_generator_that_its_very_last_step_broke_is_not_drawn_from(
    teacher: Any, compute: Any, kept: Checkpoint, monkeypatch: Any
) -> None:
    last = toy().steps - 1
    learn = Side.learn
    monkeypatch.setattr(
        Side, "learn", lambda side, loss, step: learn(side, loss * (math.nan if step == last else 1), step)
    )
    with pytest.raises(MethodError, match=r"methods.toy_game: epoch 4: weights of the generator are not finite"):
        fit(toy(), teacher, kept, compute)
