"""ZSKT: its two losses from the networks' own outputs, and which images each step sees."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from torch import Tensor, nn
from torch.nn import functional

from tests.support import (
    ATTENTION,
    OPTIMIZER,
    asked,
    calibrated_teacher,
    inputs_of,
    outputs_of,
    stepping,
)


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
    with (
        torch.no_grad(),
        outputs_of(net[1] if isinstance(net, nn.Sequential) else net.net, ["layer1", "layer3"]) as found,
    ):
        logits = net(images)
    return logits, found


def proxy(terms: dict[str, Any] | None = None, tau: float = 1.0) -> dict[str, Any]:
    return {"loss": {"kl": {"temperature": tau}}, "terms": terms or {}}


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("attended", [False, True])
@pytest.mark.parametrize("tau", [1.0, 4.0])
def test_both_losses_are_those_of_the_paper(fresh: bool, attended: bool, tau: float) -> None:
    terms = {"attention": ATTENTION} if attended else {}
    with stepping("zskt", proxy=proxy(terms, tau), fresh=fresh, student_steps=3) as step:
        net, student = (copy.deepcopy(each) for each in (step.generator.net, step.proxy.net))
        steps = asked(step)  # nothing is learnt: all steps are of the same networks
        scores = step(4).scores
        batches = [net(each.noise).detach() for each in step.latents(4, 4 if fresh else 1)]
    expected = []
    for images in batches:
        label, theirs = seen_by(calibrated_teacher(), images)
        logits, ours = seen_by(student, images)
        expected.append((divergence(label, logits, tau), attention(ours, theirs) if attended else 0.0))
    sought = -expected[0][0]
    learnt = [kl + 2500 * distance for kl, distance in (expected[1:] if fresh else expected * 3)]
    assert [each.name for each in steps] == ["generator", "proxy", "proxy", "proxy"]
    assert [each.loss.item() for each in steps] == pytest.approx([sought, *learnt], rel=1e-4)
    assert scores["generator_loss"].item() == pytest.approx(sought, rel=1e-4)
    assert scores["proxy_loss"].item() == pytest.approx(np.mean(learnt), rel=1e-4)


def test_terms_on_blocks_are_of_the_batch_also_after_a_term_asked_about_mixtures() -> None:
    mixing = {"weight": 1e-9, "alpha": 1.0, "labels": "teacher"}
    losses = []
    for terms in ({"attention": ATTENTION}, {"attention": ATTENTION, "interpolation": mixing}):
        with stepping("zskt", proxy=proxy(terms), student_steps=3) as step:
            steps = asked(step)
            step(0)
        losses.append([each.loss.item() for each in steps])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_the_published_balance_of_a_mean_over_classes_and_250_is_that_of_2500_for_ten_classes() -> None:
    with stepping("zskt", proxy=proxy({"attention": ATTENTION}), student_steps=1) as step:
        student = copy.deepcopy(step.proxy.net)
        steps = asked(step)
        images = step(0).raw.detach()
        ours = torch.autograd.grad(steps[1].loss, step.proxy.learner.parameters)

    net = calibrated_teacher()
    with outputs_of(net.net, ["layer1", "layer3"]) as theirs, outputs_of(student[1], ["layer1", "layer3"]) as found:
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
    with stepping("zskt", fresh=fresh, student_steps=3) as step:
        before = copy.deepcopy(step.generator.net)
        with inputs_of(step.proxy.net) as seen:
            step(2)
        after = step.generator.net
        noise = [each.noise for each in step.latents(2, 4 if fresh else 1)]
    first = before(noise[0])
    assert torch.equal(seen[0], first)
    if fresh:
        expected = [after(each) for each in noise[1:]]
        assert not torch.allclose(expected[0], before(noise[1]))  # the update shows
    else:
        expected = [first] * 3
        assert not torch.allclose(first, after(noise[0]))
    assert all(torch.equal(*pair) for pair in zip(seen[1:], expected, strict=True))
    assert [images.requires_grad for images in seen] == [True, False, False, False]


def test_the_generator_climbs_and_the_proxy_descends() -> None:
    slow = {"optimizer": {**OPTIMIZER, "learning_rate": 0.003}}

    def gap(*learning: str) -> float:
        """KL on the first batch after one step of these."""
        with stepping("zskt", student_steps=1, **slow) as step:
            for name in {"generator", "proxy"} - set(learning):
                step.learners[name].step = lambda loss, number: None
            step(0)
            asked(step)
            return -step(0).scores["generator_loss"].item()

    alone = gap()
    assert gap("generator") > alone
    assert gap("proxy") < alone
