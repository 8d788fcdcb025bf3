import math
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from pipeline.core.errors import ParamsError
from pipeline.core.params import build
from pipeline.optimise.learner import Learner, Optimizer, cosine, rate, warming
from pipeline.optimise.network import Recipe


class Weights(nn.Module):
    """Two parameters, one of them in channels_last; the loss is linear, so that its gradients are given."""

    def __init__(self) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(0)
        kernel = torch.randn(4, 3, 5, 5, generator=rng).contiguous(memory_format=torch.channels_last)
        self.kernel, self.bias = nn.Parameter(kernel), nn.Parameter(torch.randn(4, generator=rng))

    def loss(self, gradients: list[Tensor]) -> Tensor:
        return (self.kernel * gradients[0]).sum() + (self.bias * gradients[1]).sum()


def gradients(steps: int) -> list[list[Tensor]]:
    rng = torch.Generator().manual_seed(1)
    return [[torch.randn(4, 3, 5, 5, generator=rng), torch.randn(4, generator=rng)] for _ in range(steps)]


def learner(net: nn.Module, **changes: object) -> Learner:
    block = {"name": "sgd", "learning_rate": 0.1, "momentum": 0.9, "schedule": "cosine", **changes}
    return Learner(net, build(Optimizer, block, "optimizer"), 5)


@pytest.mark.parametrize("decay", [0.0, 0.05])
@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_it_is_the_optimiser_of_that_name_in_torch(name, decay):
    net, twin = Weights(), Weights()
    ours = learner(net, name=name, momentum=0.8, weight_decay=decay)
    kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name]
    own = {"momentum": 0.8} if name == "sgd" else {"betas": (0.8, 0.999), "eps": 1e-8}
    theirs = kind(twin.parameters(), lr=0.1, weight_decay=decay, foreach=False, **own)
    for number, drawn in enumerate(gradients(5)):
        ours.step(net.loss(drawn), number)
        theirs.param_groups[0]["lr"] = ours.rate(number)
        theirs.zero_grad()
        twin.loss(drawn).backward()
        theirs.step()
        for mine, other in zip(net.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_a_step_leaves_no_gradient_and_touches_nothing_without_one(name):
    net = Weights()
    before = [weight.detach().clone() for weight in net.parameters()]
    learner(net, name=name).step(net.kernel.sum(), 0)
    assert net.kernel.grad is None
    assert not torch.equal(net.kernel, before[0])
    assert torch.equal(net.bias, before[1])


def test_gradients_reach_no_other_network():
    net, other = nn.Linear(3, 2), nn.Linear(2, 2)
    before = [weight.detach().clone() for weight in other.parameters()]
    learner(net).step(other(net(torch.ones(4, 3))).square().mean(), 0)
    assert all(weight.grad is None for weight in other.parameters())
    assert all(torch.equal(weight, old) for weight, old in zip(other.parameters(), before, strict=True))


def test_parameters_that_want_no_gradient_are_left_alone():
    net = Weights()
    net.bias.requires_grad_(False)
    assert learner(net).parameters == [net.kernel]


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_loaded_state_goes_on_bit_for_bit_whatever_its_layout(name):
    net, twin = Weights(), Weights()
    whole, parts = learner(net, name=name), learner(twin, name=name)
    for number, drawn in enumerate(gradients(4)):
        whole.step(net.loss(drawn), number)
        parts.step(twin.loss(drawn), number)
        if number == 1:
            state = parts.state()
            state["moments"] = [
                [value.clone(memory_format=torch.contiguous_format) for value in moment] for moment in state["moments"]
            ]
            twin = Weights()
            parts = learner(twin, name=name)
            parts.load(state)
    assert all(torch.equal(mine, other) for mine, other in zip(net.parameters(), twin.parameters(), strict=True))


def test_training_does_not_pay_for_the_compiler():
    """Importing it takes seconds of each process, and the constructors of torch.optim would."""
    script = """
import sys, torch
from torch import nn
from pipeline.core.device import Compute
from pipeline.core.params import build
from pipeline.optimise.network import Pool, Recipe, fit
optimizer = dict(name="adam", learning_rate=0.1, momentum=0.9, weight_decay=0.1, schedule="cosine", clip_norm=1.0)
augment = dict(crop=1, flip=True, rotate=5.0, translate=0.1, cutout=1, fill="zeros")
recipe = build(Recipe, dict(batch=2, epochs=1, steps_per_epoch=1, optimizer=optimizer, augment=augment, mixup=0.5), "")
compute = Compute(device="cpu", precision="float32", channels_last=True, compile="never")
net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 2))
pool = Pool(torch.zeros(3, 1, 8, 8), {}, torch.device("cpu"))
fit(net, pool, lambda logits, batch: {"loss": logits.square().mean()}, recipe, compute, 0, None)
print("torch._dynamo" in sys.modules)
"""
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=300)
    assert found.stdout.strip() == "False"


# -- schedules


def test_the_warm_up_rises_linearly_to_one_and_ends() -> None:
    assert [warming(step, 4) for step in range(5)] == [0.25, 0.5, 0.75, None, None]
    assert warming(0, 0) is None
    assert warming(0, 1) is None


def test_cosine_is_pytorchs() -> None:
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=10)
    for step in range(11):
        assert cosine(step, 10) == pytest.approx(theirs.get_last_lr()[0], abs=1e-12)
        optimiser.step()
        theirs.step()


def test_cosine_starts_when_the_warm_up_ends() -> None:
    assert cosine(2, 12, warmup=4) == 1  # not there yet
    assert cosine(4, 12, warmup=4) == 1
    assert cosine(8, 12, warmup=4) == pytest.approx(0.5)
    assert cosine(12, 12, warmup=4) == pytest.approx(0)


def test_a_warm_up_as_long_as_the_run_divides_by_nothing() -> None:
    assert cosine(3, 4, warmup=4) == 1


def learning_rate(run: Recipe, step: int) -> float:
    return rate(run.optimizer, step, run.steps, run.warmup)


def test_the_cosine_starts_at_the_top_passes_half_in_the_middle_and_ends_near_zero(recipe):
    run = recipe(epochs=10, steps_per_epoch=20, learning_rate=0.4)
    assert learning_rate(run, 0) == 0.4
    assert learning_rate(run, 100) == pytest.approx(0.2)
    assert learning_rate(run, 50) == pytest.approx(0.2 * (1 + math.sqrt(0.5)))
    assert 0 < learning_rate(run, 199) < 0.4 * (math.pi / 200) ** 2


def test_warm_up_is_a_straight_line_that_the_schedule_takes_over_at_the_top(recipe):
    run = recipe(epochs=10, steps_per_epoch=4, warmup_epochs=2.5, learning_rate=1.0)
    assert [learning_rate(run, step) for step in range(10)] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert learning_rate(run, 10) == pytest.approx(1.0)
    assert learning_rate(run, 25) == pytest.approx(0.5), "half of what follows the warm-up"


def test_steps_fall_by_decay_at_each_milestone_of_the_whole_run(recipe):
    run = recipe(epochs=10, steps_per_epoch=10, schedule={"milestones": [0.3, 0.6], "decay": 0.2}, learning_rate=1.0)
    rates = [learning_rate(run, step) for step in (0, 29, 30, 59, 60, 99)]
    assert rates == pytest.approx([1.0, 1.0, 0.2, 0.2, 0.04, 0.04])


def test_a_constant_rate_stays(recipe):
    run = recipe(schedule="constant", learning_rate=0.3)
    assert {learning_rate(run, step) for step in range(run.steps)} == {0.3}


@pytest.mark.parametrize(
    ("key", "value", "where"),
    [
        ("batch", 0, "batch"),
        ("learning_rate", 0, "optimizer.learning_rate"),
        ("schedule", {"milestones": [1.5], "decay": 0.1}, "optimizer.schedule"),
        ("schedule", "step", "optimizer.schedule"),
        ("clip_norm", -1.0, "optimizer.clip_norm"),
        ("momentum", 1.0, "optimizer.momentum"),
        ("mixup", -0.1, "mixup"),
    ],
)
def test_impossible_values_are_named(recipe, key, value, where):
    with pytest.raises(ParamsError, match=rf"recipe\.{where}"):
        recipe(**{key: value})


def test_an_impossible_view_is_named_with_its_full_key(recipe):
    with pytest.raises(ParamsError, match=r"recipe\.augment\.scale\.0: -1"):
        recipe(augment={"scale": [-1.0, 1.0]})
