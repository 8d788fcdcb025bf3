"""ZSKT: its two losses from the networks' own outputs, and which images each step sees."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from playing import ATTENTION, asked, inputs, method, outputs, playing, teacher
from scipy.special import log_softmax, softmax
from torch import Tensor, nn
from torch.nn import functional

from pipeline.synthesis.generating import latents_of, paint

CPU = torch.device("cpu")


def divergence(label: Tensor, logits: Tensor, tau: float) -> float:
    """tau^2 KL(T || S), mean over the batch."""
    t, s = (each.detach().double().numpy() / tau for each in (label, logits))
    return float(tau**2 * (softmax(t, axis=1) * (log_softmax(t, axis=1) - log_softmax(s, axis=1))).sum(1).mean())


def attention(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """The sum of attention distances over the pairs of `ATTENTION`, without its weight."""

    def focus(maps: Tensor) -> np.ndarray:
        flat = (maps.detach().double().numpy() ** 2).mean(1).reshape(len(maps), -1)
        return flat / np.linalg.norm(flat, axis=1, keepdims=True)

    return sum(((focus(ours[name]) - focus(theirs[name])) ** 2).mean() for name in ("layer1", "layer3"))


def seen_by(net: nn.Module, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits and the attended blocks."""
    with torch.no_grad(), outputs(net[1] if isinstance(net, nn.Sequential) else net.net, ["layer1", "layer3"]) as found:
        logits = net(images)
    return logits, found


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("attended", [None, ATTENTION])
@pytest.mark.parametrize("tau", [1.0, 4.0])
def test_both_losses_are_those_of_the_paper(fresh: bool, attended: Any, tau: float) -> None:
    settings = {"fresh": fresh, "attention": attended, "temperature": tau, "student_steps": 3}
    with playing("zskt", **settings) as game:
        painter, student = (copy.deepcopy(net) for net in (game.sides["generator"].net, game.duel.student))
        steps = asked(game)  # nothing is learnt: all steps are of the same networks
        scores = game.play(4).scores
    latents = latents_of(method("zskt"), 0, 4, 4 if fresh else 1, CPU)
    batches = [paint(method("zskt"), painter, each).detach() for each in latents]
    expected = []
    for images in batches:
        label, theirs = seen_by(teacher(), images)
        logits, ours = seen_by(student, images)
        expected.append((divergence(label, logits, tau), attention(ours, theirs) if attended else 0.0))
    sought = -expected[0][0]
    learnt = [kl + 2500 * distance for kl, distance in (expected[1:] if fresh else expected * 3)]
    assert [step.side for step in steps] == ["generator", "proxy", "proxy", "proxy"]
    assert [step.loss.item() for step in steps] == pytest.approx([sought, *learnt], rel=1e-4)
    assert scores["generator_loss"].item() == pytest.approx(sought, rel=1e-4)
    assert scores["proxy_loss"].item() == pytest.approx(np.mean(learnt), rel=1e-4)


def test_the_published_balance_of_a_mean_over_classes_and_250_is_that_of_2500_for_ten_classes() -> None:
    with playing("zskt", attention=ATTENTION, student_steps=1) as game:
        student = copy.deepcopy(game.duel.student)
        steps = asked(game)
        images = game.play(0).images.detach()
        parameters = [value for value in game.duel.student.parameters() if value.requires_grad]
        ours = torch.autograd.grad(steps[1].loss, parameters)

    net = teacher()
    with outputs(net.net, ["layer1", "layer3"]) as theirs, outputs(student[1], ["layer1", "layer3"]) as found:
        beliefs, label = functional.log_softmax(student(images), 1), net(images).softmax(1)
    # As published: means over everything, beta = 250.
    loss = functional.kl_div(beliefs, label, reduction="none").mean()
    for name in ("layer1", "layer3"):
        mine, wanted = (functional.normalize(maps[name].pow(2).mean(1).flatten(1)) for maps in (found, theirs))
        loss = loss + 250 * (mine - wanted).pow(2).mean()
    published = torch.autograd.grad(loss, list(student.parameters()))
    for mine, wanted in zip(ours, published, strict=True):
        torch.testing.assert_close(mine, 10 * wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("fresh", [False, True])
def test_proxy_steps_repeat_the_generators_images_or_see_fresh_ones_of_the_generator_as_it_is_by_then(
    fresh: bool,
) -> None:
    with playing("zskt", fresh=fresh, student_steps=3) as game:
        before = copy.deepcopy(game.sides["generator"].net)
        with inputs(game.duel.student) as seen:
            game.play(2)
        after = game.sides["generator"].net
    latents = latents_of(method("zskt"), 0, 2, 4 if fresh else 1, CPU)
    first = paint(method("zskt"), before, latents[0])
    assert torch.equal(seen[0], first)
    if fresh:
        expected = [paint(method("zskt"), after, each) for each in latents[1:]]
        assert not torch.allclose(expected[0], paint(method("zskt"), before, latents[1]))  # the update shows
    else:
        expected = [first] * 3
        assert not torch.allclose(first, paint(method("zskt"), after, latents[0]))
    assert all(torch.equal(*pair) for pair in zip(seen[1:], expected, strict=True))
    assert [images.requires_grad for images in seen] == [True, False, False, False]


def test_the_generator_climbs_and_the_proxy_descends() -> None:
    settings = {"updates": {**method("zskt").updates.model_dump(mode="json"), "learning_rate": 0.003}}
    with playing("zskt", student_steps=1, **settings) as game:
        sought = [game.play(0).scores["generator_loss"].item()]
        steps = asked(game)
        sought.append(game.play(0).scores["generator_loss"].item())
    assert len(steps) == 2

    def gap(sides: list[str]) -> float:
        """KL on the first batch after one step of these sides."""
        with playing("zskt", student_steps=1, **settings) as game:
            for name in set(game.sides) - set(sides):
                game.sides[name].learn = lambda loss, step: None
            game.play(0)
            asked(game)
            return -game.play(0).scores["generator_loss"].item()

    alone = gap([])
    assert gap(["generator"]) > alone
    assert gap(["proxy"]) < alone
