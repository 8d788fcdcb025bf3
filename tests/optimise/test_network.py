import math
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.core.checkpoint import Checkpoint
from pipeline.core.device import Compute
from pipeline.core.errors import TrainingError
from pipeline.core.images import to_unit
from pipeline.core.rng import stream
from pipeline.losses.interpolation import mix
from pipeline.losses.logits import agreement, cross_entropy
from pipeline.optimise.learner import rate
from pipeline.optimise.network import Minibatch, Objective, Pool, fit, frozen, mode, order, seeded

CPU = torch.device("cpu")


@pytest.fixture
def small_net() -> Callable[[], nn.Module]:
    """The same small convolutional network at each call: BatchNorm and dropout are in it."""

    def make() -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(5)
            return nn.Sequential(
                nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3, stride=2),
                nn.Flatten(), nn.Dropout(0.25), nn.Linear(54, 3),
            )  # fmt: skip

    return make


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
    assert float((whole.scale.detach() - 1).abs().min()) > 1e-4
    interrupted(small_net(), pool, run, cpu, checkpoint, 1, Scaled())
    again, resumed = small_net(), Scaled()
    assert fit(again, pool, resumed, run, cpu, 7, checkpoint) == history
    assert torch.equal(weights(again), weights(net))
    assert torch.equal(resumed.scale, whole.scale)


# -- the pool


def numbered(count: int = 10) -> Pool:
    images = torch.arange(count, dtype=torch.uint8).view(count, 1, 1, 1).expand(count, 1, 2, 2).contiguous()
    return Pool(images, {"label": torch.arange(count)}, CPU)


def visited(count: int, batch: int, steps: int, epochs: range, seed: int = 0) -> list[int]:
    return [int(i) for e in epochs for _, rows in numbered(count).batches(batch, steps, seed, e) for i in rows["label"]]


def test_every_sample_is_visited_once_per_pass_whatever_the_epochs_are():
    walk = visited(10, batch=4, steps=5, epochs=range(4))
    assert len(walk) == 80
    passes = [walk[start : start + 10] for start in range(0, 80, 10)]
    assert all(sorted(one) == list(range(10)) for one in passes)
    assert len({tuple(one) for one in passes}) == 8, "each pass has its own order"


def test_an_epoch_is_a_pure_function_of_seed_and_number():
    assert visited(10, 4, 5, range(2, 3)) == visited(10, 4, 5, range(4))[40:60]
    assert visited(10, 4, 5, range(1), seed=1) != visited(10, 4, 5, range(1), seed=0)


@pytest.mark.parametrize(("start", "length"), [(0, 7), (3, 7), (6, 1), (7, 7), (5, 23), (700, 1)])
def test_any_part_of_the_walk_is_that_part_of_the_walk(start, length):
    assert torch.equal(order(7, start, length, 3), order(7, 0, 800, 3)[start : start + length])


def test_first_places_are_evenly_spread():
    firsts = torch.stack([order(5, index * 5, 1, 0) for index in range(4000)]).flatten()
    counts = torch.bincount(firsts, minlength=5).double()
    assert float(((counts - 800) ** 2 / 800).sum()) < 33, "chi-square with 4 degrees of freedom, p < 1e-6"


def test_rows_stay_with_their_images_and_batches_are_full_floats():
    for images, rows in numbered(10).batches(7, 3, 0, 0):
        assert images.shape == (7, 1, 2, 2)
        assert images.dtype == torch.float32
        assert torch.equal(images[:, 0, 0, 0], rows["label"] / 255)


def test_half_precision_images_are_taken_as_they_are():
    stored = torch.rand(3, 1, 2, 2, generator=torch.Generator().manual_seed(0)).half()
    assert torch.equal(to_unit(stored), stored.float())


def test_rows_of_another_length_are_named():
    with pytest.raises(TrainingError, match="10 images and 9 rows of label"):
        Pool(torch.zeros(10, 1, 2, 2), {"label": torch.zeros(9)}, CPU)


def test_an_empty_set_is_refused():
    with pytest.raises(TrainingError, match="no image"):
        Pool(torch.zeros(0, 1, 2, 2), {}, CPU)


# -- what a training leaves as it was


def test_each_module_finds_its_own_mode_again_also_after_an_error():
    net = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(), nn.Linear(2, 2))
    net[0].eval()
    before = [module.training for module in net.modules()]
    with mode(net, training=False):
        assert not any(module.training for module in net.modules())
    assert [module.training for module in net.modules()] == before
    with pytest.raises(ZeroDivisionError), mode(net, training=False):
        _ = 1 // 0
    assert [module.training for module in net.modules()] == before


def test_a_frozen_net_evaluates_without_gradients_and_finds_its_own_state_again_also_after_an_error():
    net = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(), nn.Linear(2, 2))
    net[0].eval()
    net[2].bias.requires_grad_(False)

    def state() -> list[bool]:
        return [*(module.training for module in net.modules()), *(value.requires_grad for value in net.parameters())]

    before = state()
    assert True in before
    with frozen(net), frozen(net):
        assert not any(state())
    assert state() == before
    with pytest.raises(ZeroDivisionError), frozen(net):
        _ = 1 // 0
    assert state() == before


def test_global_generators_are_lent_a_seed_and_get_their_state_back():
    state = torch.get_rng_state()
    drawn = []
    for seed, index in ((1, 0), (1, 0), (1, 1), (2, 0)):
        with seeded(seed, "test", index):
            drawn.append(torch.rand(4))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], drawn[3])
