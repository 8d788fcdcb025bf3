"""DAFL: its loss from the teacher's own outputs, and what the generator does and does not depend on."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from torch import nn

from pipeline.core.errors import TeacherError
from tests.support import (
    a_run,
    asked,
    calibrated_teacher,
    contents,
    drawn,
    fit_generator,
    frozen,
    generator_method,
    outputs_of,
    stepping,
    unchanged,
    weights,
)


@pytest.mark.parametrize("clamp", [False, True])
@pytest.mark.parametrize("chosen", [(1.0, 0.1, 5.0), (0.0, 2.0, 0.0), (0.05, 0.01, 20.0)])
def test_the_loss_is_the_weighted_sum_of_three_losses_of_the_teachers_outputs(
    chosen: tuple[float, float, float], clamp: bool
) -> None:
    block = dict(zip(("one_hot", "activation", "entropy"), chosen, strict=True))
    with stepping("dafl", clamp=clamp, **block) as step:
        (latents,) = step.latents(5, 1)
        raw = step.generator.net(latents.noise)
        net = calibrated_teacher()
        with torch.no_grad(), outputs_of(net.net, ["layer3"]) as seen:
            logits = net(raw.clamp(0, 1) if clamp else raw).double().numpy()
        steps = asked(step)
        scores = step(5).scores
    features = seen["layer3"].mean((2, 3)).double().numpy()  # what the last layer is given
    belief = softmax(logits, axis=1).mean(0)
    parts = (
        -log_softmax(logits, axis=1).max(1).mean(), -np.abs(features).mean(), (belief * np.log10(belief)).sum(),
    )  # fmt: skip
    assert [scores[f"{name}_loss"].item() for name in block] == pytest.approx(parts, rel=1e-4)
    ((name, loss, number),) = steps
    assert (name, number) == ("generator", 5)
    assert loss.item() == pytest.approx(np.dot(chosen, parts), rel=1e-4)
    assert scores["loss"] is loss


@pytest.mark.parametrize("term", ["one_hot", "activation", "entropy"])
def test_every_loss_reaches_the_generator(term: str) -> None:
    alone = {"one_hot": 0.0, "activation": 0.0, "entropy": 0.0, term: 1.0}
    with stepping("dafl", **alone) as step:
        net, steps = step.generator.net, asked(step)
        step(0)
        (gradient,) = torch.autograd.grad(steps[0].loss, [net.get_parameter("linear.weight")])
    assert gradient.abs().max() > 0


def test_a_step_changes_the_generator_and_nothing_else_and_there_is_no_student() -> None:
    with stepping("dafl") as step:
        assert list(step.learners) == ["generator"]
        net, before = step.generator.net, weights(step.generator.net)
        step(0)
        assert not unchanged(net, before)
        assert all(value.grad is None for value in net.parameters())


def test_the_generator_does_not_depend_on_what_is_drawn_from_it_or_on_the_worlds_random_state(tmp_path: Path) -> None:
    first = fit_generator("dafl", tmp_path / "one")
    torch.rand(5)
    other = fit_generator("dafl", tmp_path / "other", bn_mode="train", snapshots={"states": 3, "since": 0.0})
    assert [file.name for file in other.attachments()][2] == first.attachments()[1].name
    ours, theirs = first._states[1], other._states[2]
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())
    assert first.history == other.history


def test_the_loss_falls_and_images_cover_more_classes(tmp_path: Path) -> None:
    source = fit_generator("dafl", tmp_path, epochs=8, iterations=6, batch=32, snapshots={"states": 1, "since": 0.0})
    first, last = source.history[0], source.history[-1]
    assert last["loss"] < first["loss"] - 0.1
    assert last["class_entropy"] > first["class_entropy"]


def test_augmentation_is_for_training_alone(tmp_path: Path) -> None:
    moved = {"cutout": 4}
    source = fit_generator("dafl", tmp_path / "augmented", augment=moved)
    squares = nn.functional.max_pool2d(drawn(source, 20).images, 4, stride=1)
    assert squares.min() > 0  # no black square of four pixels in any image
    assert contents(fit_generator("dafl", tmp_path / "plain")) != contents(source)


def test_a_teacher_without_a_last_linear_layer_is_refused_unless_another_layer_is_named(tmp_path: Path) -> None:
    headless = frozen(nn.Sequential(nn.Conv2d(1, 10, 8), nn.Flatten()))
    with pytest.raises(TeacherError, match="does not end in a linear layer"):
        generator_method("dafl").start(a_run(headless), 0)
    generator_method("dafl", features="1").start(a_run(headless), 0)


@pytest.mark.parametrize(("features", "width"), [("head", 84), ("hidden2", 120), ("hidden2.0", 120), ("conv1.0", 256)])
def test_features_are_the_input_of_the_named_layer(features: str, width: int) -> None:
    """Of LeNet-5 the released code takes the 120 numbers before its first linear layer."""
    net = calibrated_teacher("lenet5", size=16)
    alone = {"one_hot": 0.0, "activation": 1.0, "entropy": 0.0, "features": features}
    step = generator_method("dafl", **alone).start(a_run(net), 0)
    with step.hooks():
        (latents,) = step.latents(0, 1)
        images = step.images(latents)[1]
        hidden = net.net.hidden1(net.net.conv2(net.net.conv1(net.normalise(images))))
        inputs = {120: hidden, 84: net.net.hidden2(hidden), 256: net.normalise(images).flatten(1)}
        found = asked(step)
        step(0)
    assert inputs[width].shape[1] == width
    assert found[0].loss.item() == pytest.approx(-inputs[width].abs().mean().item(), rel=1e-5)


@pytest.mark.parametrize("features", ["layer9", "conv1.7"])
def test_a_layer_that_is_not_there_is_refused(features: str) -> None:
    net = calibrated_teacher("lenet5", size=16)
    with pytest.raises(TeacherError, match=rf"methods.dafl.features: '{features}': lenet5 has no such .* conv1, conv2"):
        generator_method("dafl", features=features).start(a_run(net), 0)


def test_a_layer_that_never_runs_is_refused() -> None:
    idle = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    idle[0].register_module("spare", nn.Linear(2, 2))
    step = generator_method("dafl", features="0.spare").start(a_run(frozen(idle)), 0)
    with pytest.raises(TeacherError, match=r"methods.dafl.features: '0.spare': is given no tensor"), step.hooks():
        step(0)
