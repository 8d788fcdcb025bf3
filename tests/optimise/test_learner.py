import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from pipeline.training import Optimiser


@pytest.fixture
def weights() -> list[nn.Parameter]:
    rng = torch.Generator().manual_seed(0)
    kernel = torch.randn(4, 3, 5, 5, generator=rng).contiguous(memory_format=torch.channels_last)
    return [nn.Parameter(kernel), nn.Parameter(torch.randn(4, generator=rng))]


def gradients(like: list[nn.Parameter], steps: int) -> list[list[Tensor]]:
    rng = torch.Generator().manual_seed(1)
    return [[torch.randn(weight.shape, generator=rng) for weight in like] for _ in range(steps)]


@pytest.mark.parametrize("decay", [0.0, 0.05])
@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_it_is_the_optimiser_of_that_name_in_torch(recipe, weights, name, decay):
    twins = [nn.Parameter(weight.detach().clone()) for weight in weights]
    ours = Optimiser(recipe(optimiser=name, momentum=0.8, weight_decay=decay), weights)
    kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name]
    own = {"momentum": 0.8} if name == "sgd" else {"betas": (0.8, 0.999), "eps": 1e-8}
    theirs = kind(twins, lr=0.1, weight_decay=decay, foreach=False, **own)
    for number, drawn in enumerate(gradients(weights, 5)):
        rate = 0.1 / (number + 1)
        for group in (weights, twins):
            for weight, gradient in zip(group, drawn, strict=True):
                weight.grad = gradient.clone()
        ours.step(rate)
        theirs.param_groups[0]["lr"] = rate
        theirs.step()
        for mine, other in zip(weights, twins, strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_a_step_leaves_no_gradient_and_touches_nothing_without_one(recipe, weights, name):
    optimiser = Optimiser(recipe(optimiser=name), weights)
    before = [weight.detach().clone() for weight in weights]
    weights[0].grad = torch.ones_like(weights[0])
    optimiser.step(0.1)
    assert weights[0].grad is None
    assert not torch.equal(weights[0], before[0])
    assert torch.equal(weights[1], before[1])


def test_frozen_parameters_are_no_business_of_it(recipe, weights):
    weights[1].requires_grad_(False)
    assert Optimiser(recipe(), weights).parameters == [weights[0]]


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_loaded_state_goes_on_bit_for_bit_whatever_its_layout(recipe, weights, name):
    twins = [nn.Parameter(weight.detach().clone()) for weight in weights]
    whole = Optimiser(recipe(optimiser=name), weights)
    parts = Optimiser(recipe(optimiser=name), twins)
    for number, drawn in enumerate(gradients(weights, 4)):
        for group in (weights, twins):
            for weight, gradient in zip(group, drawn, strict=True):
                weight.grad = gradient.clone()
        whole.step(0.1)
        parts.step(0.1)
        if number == 1:
            state = parts.state()
            state["moments"] = [[value.clone(memory_format=torch.contiguous_format) for value in moment]
                                for moment in state["moments"]]  # fmt: skip
            parts = Optimiser(recipe(optimiser=name), twins)
            parts.load(state)
    assert all(torch.equal(mine, other) for mine, other in zip(weights, twins, strict=True))


def test_training_does_not_pay_for_the_compiler():
    """Importing it takes seconds of each process, and torch.optim would."""
    script = """
import sys, torch
from torch import nn
from pipeline.core.device import Compute
from pipeline.core.params import build
from pipeline.augment import Augment
from pipeline.training import Pool, Recipe, fit
views = dict(crop=1, flip=True, rotate=5.0, translate=0.1, scale=[1, 1], shear=0.0, cutout=1, fill="zeros")
recipe = build(Recipe, dict(batch=2, epochs=1, steps_per_epoch=1, optimiser="adam", learning_rate=0.1, momentum=0.9,
    weight_decay=0.1, schedule="cosine", milestones=[], decay=0.1, warmup_epochs=0, clip_norm=1.0, augment=views,
    mixup=0.5), "recipe")
compute = Compute(device="cpu", precision="float32", channels_last=True, compile="never")
net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 2))
pool = Pool(torch.zeros(3, 1, 8, 8), {}, torch.device("cpu"))
fit(net, pool, lambda logits, view: {"loss": logits.square().mean()}, recipe, compute, 0, None)
print("torch._dynamo" in sys.modules)
"""
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=300)
    assert found.stdout.strip() == "False"
