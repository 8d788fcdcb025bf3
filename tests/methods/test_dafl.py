"""DAFL: its loss from the teacher's own outputs, and what the generator does and does not depend on."""

from pathlib import Path

import numpy as np
import pytest
import torch
from playing import COMPUTE, OFF, asked, content, fit, method, outputs, playing, teacher, unchanged, weights
from scipy.special import log_softmax, softmax
from torch import nn

from pipeline.core.errors import TeacherError
from pipeline.core.rng import generator
from pipeline.synthesis.generating import latents_of, paint
from pipeline.teacher.model import Teacher


@pytest.mark.parametrize("clamp", [False, True])
@pytest.mark.parametrize("chosen", [(1.0, 0.1, 5.0), (0.0, 2.0, 0.0), (0.05, 0.01, 20.0)])
def test_the_loss_is_the_weighted_sum_of_three_losses_of_the_teachers_outputs(
    chosen: tuple[float, float, float], clamp: bool
) -> None:
    block = dict(zip(("one_hot", "activation", "entropy"), chosen, strict=True))
    with playing("dafl", clamp=clamp, **block) as game:
        (latents,) = latents_of(method("dafl"), 0, 5, 1, torch.device("cpu"))
        images = paint(method("dafl", clamp=clamp), game.sides["generator"].net, latents)
        net = teacher()
        with torch.no_grad(), outputs(net.net, ["layer3"]) as seen:
            logits = net(images).double().numpy()
        steps = asked(game)
        scores = game.play(5).scores
    features = seen["layer3"].mean((2, 3)).double().numpy()  # what the last layer is given
    belief = softmax(logits, axis=1).mean(0)
    parts = (
        -log_softmax(logits, axis=1).max(1).mean(), -np.abs(features).mean(), (belief * np.log10(belief)).sum(),
    )  # fmt: skip
    assert [scores[f"{name}_loss"].item() for name in block] == pytest.approx(parts, rel=1e-4)
    ((side, loss, index),) = steps
    assert (side, index) == ("generator", 5)
    assert loss.item() == pytest.approx(np.dot(chosen, parts), rel=1e-4)
    assert scores["loss"] is loss


@pytest.mark.parametrize("term", ["one_hot", "activation", "entropy"])
def test_every_loss_reaches_the_generator(term: str) -> None:
    alone = {"one_hot": 0.0, "activation": 0.0, "entropy": 0.0, term: 1.0}
    with playing("dafl", **alone) as game:
        net, steps = game.sides["generator"].net, asked(game)
        game.play(0)
        (gradient,) = torch.autograd.grad(steps[0].loss, [net.get_parameter("linear.weight")])
    assert gradient.abs().max() > 0


def test_a_step_changes_the_generator_and_nothing_else_and_there_is_no_student() -> None:
    with playing("dafl") as game:
        assert game.proxy is None
        assert list(game.sides) == ["generator"]
        net, before = game.sides["generator"].net, weights(game.sides["generator"].net)
        game.play(0)
        assert not unchanged(net, before)
        assert all(value.grad is None for value in net.parameters())


def test_the_generator_does_not_depend_on_what_is_drawn_from_it_or_on_the_worlds_random_state(tmp_path: Path) -> None:
    first = fit("dafl", tmp_path / "one")
    torch.rand(5)
    other = fit("dafl", tmp_path / "other", statistics="train", snapshots={"states": 3, "since": 0.0})
    assert [file.name for file in other.attachments()][2] == first.attachments()[1].name
    ours, theirs = first._states[1], other._states[2]
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())
    assert first.history == other.history


def test_the_loss_falls_and_images_cover_more_classes(tmp_path: Path) -> None:
    source = fit("dafl", tmp_path, epochs=8, iterations=6, batch=32, snapshots={"states": 1, "since": 0.0})
    first, last = source.history[0], source.history[-1]
    assert last["loss"] < first["loss"] - 0.1
    assert last["class_entropy"] > first["class_entropy"]


def test_views_are_for_training_alone(tmp_path: Path) -> None:
    moved = OFF.model_copy(update={"cutout": 4}).model_dump(mode="json")
    drawn = fit("dafl", tmp_path / "views", views=moved).draw(20, generator(0, "t"), 0).images
    squares = nn.functional.max_pool2d(drawn, 4, stride=1)
    assert squares.min() > 0  # no black square of four pixels in any image
    assert content(fit("dafl", tmp_path / "plain")) != content(fit("dafl", tmp_path / "views", views=moved))


def test_a_teacher_without_a_last_linear_layer_is_refused() -> None:
    net = nn.Sequential(nn.Conv2d(1, 10, 8), nn.Flatten())
    with pytest.raises(TeacherError, match="does not end in a linear layer"):
        method("dafl").game(Teacher(net, teacher().info), 0, COMPUTE)
