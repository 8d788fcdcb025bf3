import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.core.checkpoint import Checkpoint
from pipeline.core.device import Compute
from pipeline.core.errors import TrainingError
from pipeline.core.rng import stream
from pipeline.losses.interpolation import mix
from pipeline.losses.logits import agreement, cross_entropy
from pipeline.optimise.learner import rate
from pipeline.optimise.network import Minibatch, Objective, Pool, fit

CPU = torch.device("cpu")


@pytest.fixture
def pool() -> Pool:
    rng = torch.Generator().manual_seed(2)
    images = torch.randint(0, 256, (30, 2, 8, 8), generator=rng, dtype=torch.uint8)
    return Pool(images, {"label": torch.randint(0, 3, (30,), generator=rng)}, CPU)


def objective(logits: Tensor, seen: Minibatch) -> dict[str, Tensor]:
    label = seen.mixed(functional.one_hot(seen.rows["label"], 3).float())
    return {"loss": cross_entropy(logits, label), "agreement": agreement(logits, label)}


def weights(net: nn.Module) -> Tensor:
    return torch.cat([value.double().flatten() for value in net.state_dict().values()])


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
def test_fit_is_the_plain_loop_of_the_textbook(small_net, recipe, cpu, pool, optimiser):
    run = recipe(name=optimiser, learning_rate=0.01, warmup_epochs=0.5)
    trained, plain = small_net(), small_net()
    for net in (trained, plain):
        net[5].p = 0.0  # dropout draws its own numbers
    history = fit(trained, pool, objective, run, cpu, 4, None)

    kind = torch.optim.SGD if optimiser == "sgd" else torch.optim.Adam
    momentum = {"momentum": 0.9} if optimiser == "sgd" else {"betas": (0.9, 0.999)}
    steps = kind(plain.parameters(), lr=1.0, weight_decay=0.001, foreach=False, **momentum)
    losses = []
    for epoch in range(3):
        for number, (images, rows) in enumerate(pool.batches(8, 5, 4, epoch)):
            steps.param_groups[0]["lr"] = rate(run.optimizer, 5 * epoch + number, run.steps, run.warmup)
            steps.zero_grad()
            loss = functional.cross_entropy(plain(images), rows["label"])
            loss.backward()
            steps.step()
            losses.append(loss.item())
    torch.testing.assert_close(weights(trained), weights(plain), atol=1e-5, rtol=1e-4)
    expected = [sum(losses[start : start + 5]) / 5 for start in (0, 5, 10)]
    assert [row["loss"] for row in history] == pytest.approx(expected, rel=1e-4)
    assert [row["epoch"] for row in history] == [1, 2, 3]
    assert [row["learning_rate"] for row in history] == [
        rate(run.optimizer, step, run.steps, run.warmup) for step in (4, 9, 14)
    ]


def test_the_whole_gradient_is_clipped_to_the_norm(small_net, recipe, cpu, pool):
    run = recipe(momentum=0.0, weight_decay=0.0, schedule="constant", learning_rate=1.0, clip_norm=0.01, epochs=1,
                 steps_per_epoch=1)  # fmt: skip
    net = small_net()
    before = [value.detach().clone() for value in net.parameters()]
    fit(net, pool, objective, run, cpu, 0, None)
    moved = torch.cat([(new.detach() - old).flatten() for new, old in zip(net.parameters(), before, strict=True)])
    assert float(moved.norm()) == pytest.approx(0.01, rel=1e-4)


class _Pulled(Exception):
    """The plug was pulled."""


def interrupted(
    net: nn.Module, pool: Pool, run, cpu: Compute, checkpoint: Checkpoint, after: int, objective: Objective = objective
) -> None:
    """Train until `after` epochs are done, and die in the middle of the next."""

    class Dying:
        def batches(self, batch: int, steps: int, seed: int, epoch: int) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
            for number, item in enumerate(pool.batches(batch, steps, seed, epoch)):
                if epoch == after and number == 3:
                    raise _Pulled
                yield item

    with pytest.raises(_Pulled):
        fit(net, Dying(), objective, run, cpu, 7, checkpoint)


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_a_run_that_died_in_any_epoch_ends_with_the_same_bits(tmp_path, small_net, recipe, cpu, pool, optimiser):
    augment = {"crop": 1, "flip": True, "rotate": 10.0, "cutout": 2}
    run = recipe(epochs=4, name=optimiser, learning_rate=0.01, mixup=0.3, clip_norm=1.0, augment=augment)
    whole = small_net()
    history = fit(whole, pool, objective, run, cpu, 7, None, after_epoch=lambda: {"size": float(weights(whole).norm())})
    for after in range(4):
        checkpoint = Checkpoint(tmp_path / f"{after}.safetensors")
        interrupted(small_net(), pool, run, cpu, checkpoint, after)
        resumed = small_net()
        if after > 0:
            nn.init.zeros_(resumed[0].weight)  # a resumed run owes nothing to where it starts
        rows = fit(resumed, pool, objective, run, cpu, 7, checkpoint)
        assert torch.equal(weights(resumed), weights(whole))
        assert rows == [{key: value for key, value in row.items() if key != "size"} for row in history]


def test_a_view_knows_its_step_so_that_an_objective_s_own_randomness_survives_a_kill(
    tmp_path, small_net, recipe, cpu, pool
):
    seen: list[int] = []

    def noisy(logits: Tensor, view: Minibatch) -> dict[str, Tensor]:
        seen.append(view.step)
        noise = torch.randn(logits.shape, generator=stream(7, "test", view.step))
        scores = objective(logits + noise, view)
        return scores | {"noise": noise[0, 0]}

    run, checkpoint = recipe(), Checkpoint(tmp_path / "state.safetensors")
    whole = small_net()
    history = fit(whole, pool, noisy, run, cpu, 7, None)
    assert seen == list(range(15))
    interrupted(small_net(), pool, run, cpu, checkpoint, 1, noisy)
    seen.clear()
    resumed = small_net()
    assert fit(resumed, pool, noisy, run, cpu, 7, checkpoint) == history
    assert seen == list(range(5, 15))
    assert torch.equal(weights(resumed), weights(whole))


def test_a_finished_run_returns_its_history_without_training(tmp_path, small_net, recipe, cpu, pool):
    checkpoint = Checkpoint(tmp_path / "state.safetensors")
    first = small_net()
    history = fit(first, pool, objective, recipe(), cpu, 0, checkpoint)
    second = small_net()
    assert fit(second, None, objective, recipe(), cpu, 0, checkpoint) == history
    assert torch.equal(weights(first), weights(second))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_the_run_with_the_epoch_and_the_cure(
    tmp_path, small_net, recipe, cpu, pool, value
):
    calls = []

    def breaking(logits: Tensor, seen: Minibatch) -> dict[str, Tensor]:
        calls.append(1)
        scores = objective(logits, seen)
        return scores | {"loss": scores["loss"] * (value if len(calls) == 7 else 1)}

    checkpoint = Checkpoint(tmp_path / "state.safetensors")
    with pytest.raises(TrainingError, match=r"epoch 2: the loss is (nan|inf); lower learning_rate \(0\.1\)"):
        fit(small_net(), pool, breaking, recipe(), cpu, 0, checkpoint)
    state = checkpoint.load()
    assert state is not None
    assert len(state["history"]) == 1, "the broken epoch is not kept"


def test_torch_s_generators_and_module_modes_are_left_alone(small_net, recipe, cpu, pool):
    net = small_net()
    net[1].eval()
    state = torch.get_rng_state()
    seen: list[bool] = []

    def after_epoch() -> dict[str, float]:
        seen.extend(module.training for module in net.modules())
        return {"extra": 1.0}

    history = fit(net, pool, objective, recipe(mixup=0.5), cpu, 0, None, after_epoch)
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(seen)
    assert [row["extra"] for row in history] == [1.0] * 3
    assert not net[1].training
    assert net[5].training


def test_the_seed_decides_everything_and_the_global_seed_nothing(small_net, recipe, cpu, pool):
    ends = []
    for seed, outer in ((1, 10), (1, 20), (2, 10)):
        with torch.random.fork_rng():
            torch.manual_seed(outer)
            net = small_net()
            fit(net, pool, objective, recipe(mixup=0.2, augment={"flip": True}), cpu, seed, None)
        ends.append(weights(net))
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])


def test_bfloat16_runs_and_stays_close_to_float32(small_net, recipe, cpu, pool):
    run = recipe(learning_rate=0.01)
    halved = cpu.model_copy(update={"precision": "bfloat16"})
    losses = [
        [row["loss"] for row in fit(small_net(), pool, objective, run, compute, 0, None)] for compute in (cpu, halved)
    ]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.03)


@pytest.mark.slow
def test_compiled_steps_give_what_plain_ones_give(small_net, recipe, cpu, pool):
    run = recipe(learning_rate=0.01)
    compiled = cpu.model_copy(update={"compile": "always"})
    nets = [small_net(), small_net()]
    for net, compute in zip(nets, (cpu, compiled), strict=True):
        net[5].p = 0.0  # compiled dropout draws other numbers
        fit(net, pool, objective, run, compute, 0, None)
    torch.testing.assert_close(weights(nets[0]), weights(nets[1]), atol=1e-4, rtol=1e-3)


def test_mixed_images_and_labels_share_their_proportions(small_net, recipe, cpu, pool):
    checked = []

    def looking(logits: Tensor, seen: Minibatch) -> dict[str, Tensor]:
        original = torch.stack([pool.images[index].float() / 255 for index in seen.rows["index"]])
        expected = mix(original, seen.lam)
        torch.testing.assert_close(seen.images, expected)
        one_hot = torch.eye(30)[seen.rows["index"]]
        assert torch.equal(seen.mixed(one_hot), mix(one_hot, seen.lam))
        checked.append(seen.lam)
        return objective(logits, seen)

    pool.rows["index"] = torch.arange(30)
    fit(small_net(), pool, looking, recipe(mixup=2.0), cpu, 0, None)
    shares = torch.cat(checked)
    assert len(shares) == 120
    assert float(shares.mean()) == pytest.approx(0.5, abs=0.12), "Beta(2, 2) has mean 1/2, deviation 0.22"
    assert len(shares.unique()) > 100, "one share per sample"


def test_an_objective_with_parameters_of_its_own_learns_them_and_resumes(tmp_path, small_net, recipe, cpu, pool):
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))

        def forward(self, logits: Tensor, seen: Minibatch) -> dict[str, Tensor]:
            return objective(logits * self.scale, seen)

    run, checkpoint = recipe(), Checkpoint(tmp_path / "state.safetensors")
    net, whole = small_net(), Scaled()
    history = fit(net, pool, whole, run, cpu, 7, None)
    assert float((whole.scale - 1).abs().min()) > 1e-4
    interrupted(small_net(), pool, run, cpu, checkpoint, 1, Scaled())
    again, resumed = small_net(), Scaled()
    assert fit(again, pool, resumed, run, cpu, 7, checkpoint) == history
    assert torch.equal(weights(again), weights(net))
    assert torch.equal(resumed.scale, whole.scale)
