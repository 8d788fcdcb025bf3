import math

import pytest

from pipeline.core.errors import ParamsError
from pipeline.optimise.learner import rate
from pipeline.optimise.network import Recipe


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
