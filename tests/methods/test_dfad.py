"""DFAD with its reconstructed additions: its two losses from the networks' own outputs, and which images they see."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.support import (
    ATTENTION,
    BOUNDARY,
    asked,
    calibrated_teacher,
    inputs_of,
    outputs_of,
    stepping,
)

BLOCKS = ["layer1", "layer2", "layer3"]


def apart(student: Tensor, label: Tensor) -> float:
    return float(np.abs(student.detach().double().numpy() - label.detach().double().numpy()).mean())


def hinge(response: Tensor, wanted: Tensor, margin: float) -> float:
    s, t = (each.detach().double().numpy() for each in (response, wanted))
    below, above = ((s + margin) ** 2 * (s > -margin), (s - margin) ** 2 * (s <= margin))
    return float(np.where(t > 0, above, below).mean())


def focus(maps: Tensor) -> np.ndarray:
    flat = (maps.detach().double().numpy() ** 2).mean(1).reshape(len(maps), -1)
    return flat / np.linalg.norm(flat, axis=1, keepdims=True)


class Copies:
    """The networks of a step as they were, to be asked again."""

    def __init__(self, step: Any) -> None:
        parts = (step.generator.net, step.proxy.net, step.proxy.loss)
        self.generator, self.student, self.loss = (copy.deepcopy(part) for part in parts)
        self.teacher = calibrated_teacher()

    def inside(self, images: Tensor) -> dict[str, float]:
        """The terms between blocks on these images, from maps and connectors, by name."""
        with torch.no_grad(), outputs_of(self.teacher.net, BLOCKS) as theirs:
            with outputs_of(self.student[1], BLOCKS) as ours:
                self.teacher(images), self.student(images)
            found = {"attention": 2500 * sum(
                ((focus(ours[name]) - focus(theirs[name])) ** 2).mean() for name in ("layer1", "layer3")
            )}  # fmt: skip
            if "activation_boundary" in self.loss.terms:
                connectors: Any = self.loss.terms["activation_boundary"].connectors
                near = nn.functional.adaptive_avg_pool2d(connectors[0](ours["layer1"]), 4)  # down to layer2's size
                hinges = 0.7 / 2 * hinge(near, theirs["layer2"], 0.5)
                found["activation_boundary"] = hinges + 0.7 * hinge(
                    connectors[1](ours["layer3"]), theirs["layer3"], 0.5
                )
        return found


def proxy(*names: str, mixing: dict[str, Any] | None = None) -> dict[str, Any]:
    blocks = {"attention": ATTENTION, "activation_boundary": BOUNDARY}
    terms = {name: blocks[name] for name in names}
    return {"terms": terms if mixing is None else {**terms, "interpolation": mixing}}


@pytest.mark.parametrize(
    "terms", [(), ("attention",), ("activation_boundary",), ("attention", "activation_boundary")],
    ids=lambda names: "+".join(names) or "none",
)  # fmt: skip
@pytest.mark.parametrize("reaching", [False, True])
@pytest.mark.parametrize("labels", [None, "interpolated", "teacher"])
def test_both_losses_against_the_networks_outputs(terms: tuple[str, ...], reaching: bool, labels: str | None) -> None:
    mixing = None if labels is None else {"weight": 0.6, "alpha": 0.8, "labels": labels}
    settings = {"proxy": proxy(*terms, mixing=mixing), "terms_reach_generator": reaching}
    with stepping("dfad", student_steps=2, **settings) as step:
        copies, steps = Copies(step), asked(step)  # nothing is learnt: all steps are of the same networks
        with inputs_of(step.proxy.net) as seen:
            scores = step(3).scores
        batches = [copies.generator(each.noise) for each in step.latents(3, 3)]

    expected = []
    for turn, images in enumerate(batches):
        label = copies.teacher(images)
        loss = apart(copies.student(images), label)
        proxys_turn = turn < 2
        if terms and (proxys_turn or reaching):
            loss += sum(copies.inside(images)[name] for name in terms)
        if labels and proxys_turn:
            mixed = seen[2 * turn + 1]
            share = shares(mixed, images)
            wanted = label.roll(1, 0).lerp(label, share[:, None]) if labels == "interpolated" else copies.teacher(mixed)
            loss += 0.6 * apart(copies.student(mixed), wanted)
        expected.append(loss if proxys_turn else -loss)
    assert [each.name for each in steps] == ["proxy", "proxy", "generator"]
    assert [each.loss.item() for each in steps] == pytest.approx(expected, rel=1e-4)
    assert scores["proxy_loss"].item() == pytest.approx(np.mean(expected[:2]), rel=1e-4)
    assert scores["generator_loss"].item() == pytest.approx(expected[2], rel=1e-4)


def shares(mixed: Tensor, images: Tensor) -> Tensor:
    """How much of itself each mixture holds, from the images, which must be mixtures with the neighbour before."""
    neighbours = images.roll(1, 0)
    along = (images - neighbours).flatten(1)
    share = ((mixed - neighbours).flatten(1) * along).sum(1) / along.square().sum(1)
    torch.testing.assert_close(mixed, neighbours.lerp(images, share.view(-1, 1, 1, 1)), atol=1e-5, rtol=1e-4)
    assert share.min() >= 0
    assert share.max() <= 1
    return share.detach()


def test_shares_of_a_mixture_differ_between_images_and_steps() -> None:
    mixing = {"weight": 1.0, "alpha": 1.0, "labels": "interpolated"}
    with stepping("dfad", proxy=proxy(mixing=mixing), batch=16) as step:
        asked(step)
        with inputs_of(step.proxy.net) as seen:
            step(0)
            step(1)
    turns = torch.stack([shares(seen[place + 1], seen[place]) for place in (0, 2, 5, 7)])
    assert len(torch.unique(turns)) == turns.numel()


def test_every_step_has_a_batch_of_its_own_and_the_generators_comes_last() -> None:
    with stepping("dfad", student_steps=3) as step:
        before = copy.deepcopy(step.generator.net)
        with inputs_of(step.proxy.net) as seen:
            step(1)
        expected = [before(each.noise) for each in step.latents(1, 4)]
    assert all(torch.equal(*pair) for pair in zip(seen, expected, strict=True))
    assert [images.requires_grad for images in seen] == [False, False, False, True]


@pytest.mark.parametrize("name", ["attention", "activation_boundary"])
def test_the_generator_is_drawn_to_where_the_terms_are_large(name: str) -> None:
    def gradients(reaching: bool) -> list[Tensor]:
        """Of what the generator is asked to learn; of the term, through both networks' maps and the proxy's alone."""
        settings = {"proxy": proxy(name), "terms_reach_generator": reaching}
        with stepping("dfad", student_steps=1, **settings) as step:
            steps, weights = asked(step), step.generator.net.get_parameter("linear.weight")
            step(0)
            seen = step.proxy._seen(*[torch.empty(0)] * 3, 0)
            terms = [step.proxy.loss.beside(seen, reach_teacher=reach)[name] for reach in (True, False)]
            losses = [steps[-1].loss, *terms]
            return [torch.autograd.grad(loss, weights, retain_graph=True)[0] for loss in losses]

    plain, both, proxys = gradients(reaching=False)
    whole = gradients(reaching=True)[0]
    assert both.abs().max() > 1e-4
    torch.testing.assert_close(whole, plain - both, rtol=1e-3, atol=1e-5)
    # A boundary is a sign, which has no gradient: what the generator can move is the proxy's side of it.
    assert torch.allclose(both, proxys) == (name == "activation_boundary")


def test_without_a_term_on_blocks_it_is_plain_dfad_on_either_side() -> None:
    found = []
    for reaching in (False, True):
        with stepping("dfad", terms_reach_generator=reaching) as step:
            found.append({name: value.item() for name, value in step(0).scores.items()})
    assert found[0] == found[1]


@pytest.mark.parametrize("changed", [{"seed": 1}, {"student_steps": 1}])
def test_the_interpolations_random_numbers_do_not_move_the_noise(changed: dict[str, int]) -> None:
    mixing = {"weight": 1.0, "alpha": 1.0, "labels": "interpolated"}
    with stepping("dfad", **changed) as one, stepping("dfad", proxy=proxy(mixing=mixing), **changed) as other:
        images = []
        for step in (one, other):
            asked(step)
            images.append(step(0).raw)
    assert torch.equal(*images)
