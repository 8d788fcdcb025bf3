"""Both sides of a duel: whose weights, whose modes, which way gradients go."""

from typing import Any

import pytest
import torch
from toy_game import toy, updates

from pipeline import nets
from pipeline.core.errors import ParamsError, TeacherError
from pipeline.core.rng import generator
from pipeline.synthesis.duel import Duel, Opponent
from pipeline.synthesis.generating import latents_of
from pipeline.teacher.model import Teacher
from pipeline.transfer import Attention, Boundary

ATTENTION = Attention(weight=2.0, blocks="auto")
BOUNDARY = Boundary(weight=1.0, margin=1.0, blocks=(("layer1", "layer2"),))


@pytest.fixture
def residual(teacher: Teacher) -> Teacher:
    net = nets.build("resnet8", 3, 1, 8, rng=generator(5, "teacher"))
    return Teacher(net, teacher.info.model_copy(update={"batch_norm": True}))


def duel(teacher: Teacher, compute: Any, seed: int = 0, arch: str = "resnet8", **terms: Any) -> Duel:
    return Duel(toy(clamp=True), Opponent(arch=arch, updates=updates()), 12, teacher, seed, compute, **terms)


def test_the_proxy_is_in_training_mode_and_sees_images_as_the_teacher_normalises_them(residual: Any, compute: Any):
    made = duel(residual, compute)
    arch, net = made.proxy
    assert arch == "resnet8"
    assert all(module.training for module in net.modules())
    assert not any(module.training for module in residual.modules())
    images = torch.rand(4, 1, 8, 8)
    torch.testing.assert_close(made.student(images), net((images - 0.5) / 0.25))


def test_weights_of_both_sides_depend_on_the_seed_alone(residual: Any, compute: Any) -> None:
    first, again, other = (duel(residual, compute, seed, boundary=BOUNDARY) for seed in (0, 0, 1))
    for name, side in first.sides.items():
        ours, same, different = (made.sides[name].net.state_dict() for made in (first, again, other))
        assert all(torch.equal(value, same[key]) for key, value in ours.items())
        drawn = [key for key, value in side.net.named_parameters() if value.dim() > 1]
        assert drawn
        assert not any(torch.equal(ours[key], different[key]) for key in drawn)


def test_gradients_reach_the_generator_through_images_and_nothing_through_fresh_ones_and_labels(
    residual: Any, compute: Any
) -> None:
    made = duel(residual, compute)
    (latents,) = latents_of(toy(batch=64), 0, 0, 1, torch.device("cpu"))
    images, fresh = made.images(latents), made.fresh(latents)
    assert images.min() == 0  # clamped, as the params say
    torch.testing.assert_close(images.detach(), fresh)
    net = made.sides["generator"].net
    (gradient,) = torch.autograd.grad(residual(images).sum(), [net.linear.weight])
    assert gradient.abs().max() > 0
    assert not fresh.requires_grad
    assert not made.labels(images).requires_grad


def test_connectors_learn_with_the_proxy_and_are_not_part_of_it(residual: Any, compute: Any) -> None:
    made, plain = duel(residual, compute, boundary=BOUNDARY), duel(residual, compute)
    assert made.proxy[1].state_dict().keys() == plain.proxy[1].state_dict().keys()
    connectors = [id(value) for value in made.terms.parameters()]
    assert connectors
    mine = {id(value) for value in made.sides["proxy"].net.parameters()}
    assert mine == {*connectors, *(id(value) for value in made.proxy[1].parameters())}
    assert not mine & {id(value) for value in made.sides["generator"].net.parameters()}


@pytest.mark.parametrize(
    ("terms", "expected"), [({}, False), ({"attention": ATTENTION}, True), ({"boundary": BOUNDARY}, True)]
)
def test_whether_there_are_terms_is_known_without_computing_them(
    residual: Any, compute: Any, terms: Any, expected: bool
) -> None:
    assert duel(residual, compute, **terms).has_terms == expected


def test_a_proxy_that_does_not_fit_or_has_not_the_named_blocks_is_refused(residual: Any, compute: Any) -> None:
    with pytest.raises(ParamsError, match="lenet5: size is 8, needs at least 12"):
        duel(residual, compute, arch="lenet5")
    with pytest.raises(TeacherError, match="no submodule 'layer9'"):
        duel(residual, compute, attention=Attention(weight=1.0, blocks=(("layer1", "layer9"),)))
