"""The pixel loop against numpy, and what stands around it."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pipeline.classifier import Teacher
from pipeline.core.device import Compute
from pipeline.core.errors import MethodError
from pipeline.core.rng import stream
from pipeline.losses.logits import softened_cross_entropy
from pipeline.optimise.pixels import Adam, Init, Part, balanced, batches_of_groups, descend, keep_in_range, roll
from tests.support import CPU, ROOT, frozen


@pytest.fixture
def compute() -> Compute:
    return CPU


@pytest.fixture
def teacher() -> Teacher:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 6 * 6, 3))
    return frozen(net, classes=3, mean=(0.5,), std=(0.25,))


def numpy_adam(x: np.ndarray, gradient, rates: list[float], betas=(0.9, 0.999), low=0.0, high=1.0) -> np.ndarray:
    m = v = np.zeros_like(x)
    for t, rate in enumerate(rates, start=1):
        g = gradient(x)
        m, v = betas[0] * m + (1 - betas[0]) * g, betas[1] * v + (1 - betas[1]) * g * g
        step = rate * (m / (1 - betas[0] ** t)) / (np.sqrt(v / (1 - betas[1] ** t)) + 1e-8)
        x = np.clip(x - step, low, high)
    return x


def test_descend_is_adam_with_clamping(compute: Compute) -> None:
    goal = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0)) * 1.4 - 0.2  # partly out of range
    start = torch.full((3, 1, 4, 4), 0.5)
    found = descend(
        start, lambda x: ((x - goal) ** 2).sum((1, 2, 3)), steps=25, adam=Adam(0.05), bound="clamp", compute=compute
    )
    expected = numpy_adam(start.double().numpy(), lambda x: 2 * (x - goal.double().numpy()), [0.05] * 25)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)
    assert torch.equal(start, torch.full((3, 1, 4, 4), 0.5))


def test_an_image_does_not_depend_on_its_batch_mates(teacher: Teacher, compute: Compute) -> None:
    images = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    targets = torch.eye(3)[torch.arange(8) % 3]

    def run(chosen: slice) -> torch.Tensor:
        wanted = targets[chosen]
        return descend(
            images[chosen], lambda x: softened_cross_entropy(teacher(x), wanted, 20), steps=10, adam=Adam(0.02),
            bound="rescale", compute=compute,
        )  # fmt: skip

    torch.testing.assert_close(run(slice(0, 8))[2:4], run(slice(2, 4)), atol=1e-4, rtol=0)


def test_frozen_and_unfrozen_teachers_give_the_same_images(teacher: Teacher, compute: Compute) -> None:
    images = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    targets = torch.eye(3)[torch.arange(4) % 3]

    def run() -> torch.Tensor:
        return descend(
            images, lambda x: softened_cross_entropy(teacher(x), targets, 20), steps=5, adam=Adam(0.02),
            bound="clamp", compute=compute,
        )  # fmt: skip

    frozen = run()
    teacher.requires_grad_(requires_grad=True)
    unfrozen = run()
    assert torch.equal(frozen, unfrozen)
    assert all(p.grad is None for p in teacher.parameters())


def test_descending_lowers_the_loss(teacher: Teacher, compute: Compute) -> None:
    images = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    targets = torch.eye(3)[torch.tensor([0, 1, 2, 0])]
    found = descend(
        images, lambda x: softened_cross_entropy(teacher(x), targets, 1), steps=50, adam=Adam(0.05), bound="clamp",
        compute=compute,
    )  # fmt: skip
    before, after = (softened_cross_entropy(teacher(x), targets, 1) for x in (images, found))
    assert (after < before).all()


def test_the_watch_can_stop_the_loop(compute: Compute) -> None:
    seen: list[int] = []

    def watch(images: torch.Tensor, done: int) -> bool:
        assert not torch.is_grad_enabled()
        seen.append(done)
        return done == 3

    descend(
        torch.rand(1, 1, 4, 4), lambda x: x.sum((1, 2, 3)), steps=9, adam=Adam(0.01), bound="clamp",
        compute=compute, watch=watch,
    )  # fmt: skip
    assert seen == [1, 2, 3]


def test_rescale_maps_each_image_by_its_own_range() -> None:
    images = torch.stack([torch.tensor([[[-1.0, 0.0], [1.0, 3.0]]]), torch.tensor([[[0.2, 0.3], [0.4, 0.7]]])])
    keep_in_range(images, "rescale")
    torch.testing.assert_close(images[0, 0], torch.tensor([[0, 0.25], [0.5, 1]]))
    torch.testing.assert_close(images[1, 0], torch.tensor([[0, 0.2], [0.4, 1]]))


@pytest.mark.parametrize("bound", ["clamp", "rescale"])
def test_a_constant_image_survives(bound) -> None:
    images = torch.full((1, 1, 2, 2), 0.3)
    keep_in_range(images, bound)
    assert torch.equal(images, torch.full((1, 1, 2, 2), 0.3))


def test_bfloat16_stays_close_to_float32(teacher: Teacher, compute: Compute) -> None:
    images = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    targets = torch.eye(3)[torch.tensor([0, 1, 2, 0])]
    half = compute.model_copy(update={"precision": "bfloat16"})
    found = [
        descend(
            images, lambda x: softened_cross_entropy(teacher(x), targets, 1), steps=30, adam=Adam(0.02),
            bound="clamp", compute=each,
        )
        for each in (compute, half)
    ]  # fmt: skip
    losses = [softened_cross_entropy(teacher(x), targets, 1).mean().item() for x in found]
    assert losses[1] == pytest.approx(losses[0], abs=0.05)


@pytest.mark.parametrize("keep", ["last", "best"])
def test_the_memory_layout_changes_nothing(compute: Compute, keep) -> None:
    """A gradient whose strides differ from the pixels' once went to the wrong pixels."""
    start = torch.rand(2, 3, 5, 4, generator=torch.Generator().manual_seed(0))
    goal = torch.rand(2, 3, 5, 4, generator=torch.Generator().manual_seed(1))
    found = [
        descend(
            start, lambda x: ((x.contiguous() - goal) ** 2).sum((1, 2, 3)), steps=20, adam=Adam(0.03), bound="clamp",
            compute=compute.model_copy(update={"channels_last": layout}), keep=keep,
        )
        for layout in (False, True)
    ]  # fmt: skip
    torch.testing.assert_close(found[0], found[1], atol=1e-6, rtol=0)
    assert (found[0] - goal).abs().mean() < (start - goal).abs().mean() / 2


def test_the_step_size_warms_up_and_decays_as_asked(compute: Compute) -> None:
    goal = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    start = torch.full((3, 1, 4, 4), 0.5)
    found = descend(
        start, lambda x: ((x - goal) ** 2).sum((1, 2, 3)), steps=12,
        adam=Adam(0.04, betas=(0.5, 0.9), schedule="cosine", warmup=4), bound="clamp", compute=compute,
    )  # fmt: skip
    rates = [0.01, 0.02, 0.03, 0.04, *(0.02 * (1 + np.cos(np.pi * np.arange(8) / 8)))]
    expected = numpy_adam(start.double().numpy(), lambda x: 2 * (x - goal.double().numpy()), rates, (0.5, 0.9))
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


def test_free_pixels_roam_until_the_last_step_is_done(compute: Compute) -> None:
    goal = torch.tensor([-0.5, 0.25, 0.5, 1.75]).view(1, 1, 2, 2)
    highest: list[float] = []

    def objective(x: torch.Tensor) -> torch.Tensor:
        highest.append(x.max().item())
        return ((x - goal) ** 2).sum((1, 2, 3))

    start = torch.full((1, 1, 2, 2), 0.5)
    found = descend(start, objective, steps=30, adam=Adam(0.05), bound="free", compute=compute)
    roaming = numpy_adam(
        start.double().numpy(), lambda x: 2 * (x - goal.double().numpy()), [0.05] * 30, low=-np.inf, high=np.inf
    )
    np.testing.assert_allclose(found.numpy(), roaming.clip(0, 1), atol=1e-5)
    assert max(highest) > 1.2


@pytest.mark.parametrize("layout", [False, True])
def test_the_best_images_of_each_group_are_copies_from_when_they_were_best(compute: Compute, layout: bool) -> None:
    """The first group starts where its loss is least; the others overshoot and come back too late."""
    goal = torch.tensor([0.6, 0.48, 0.38]).repeat_interleave(2).view(6, 1, 1, 1)
    losses, iterates = [], []

    def objective(x: torch.Tensor) -> torch.Tensor:
        each = ((x - goal) ** 2).mean((1, 2, 3)).view(3, 2).sum(1)
        losses.append(each.detach().clone())
        iterates.append(x.detach().clone())
        return each

    start = 0.6 + 0.004 * torch.rand(6, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    found = descend(
        start, objective, steps=8, adam=Adam(0.05), bound="clamp", keep="best",
        compute=compute.model_copy(update={"channels_last": layout}),
    )  # fmt: skip
    lowest = torch.stack(losses).argmin(0).tolist()
    assert 0 == lowest[0] < lowest[1] < lowest[2] < 8
    for place, step in enumerate(lowest):
        group = slice(2 * place, 2 * place + 2)
        assert torch.equal(found[group], iterates[step][group])


def test_the_images_after_the_last_step_can_be_the_best(compute: Compute) -> None:
    start, adam = torch.full((2, 1, 4, 4), 0.9), Adam(0.05)
    best, last = (
        descend(start, lambda x: x.sum((1, 2, 3)), steps=5, adam=adam, bound="clamp", compute=compute, keep=keep)
        for keep in ("best", "last")
    )
    assert torch.equal(best, last)


# Groups.


@settings(deadline=None)
@given(count=st.integers(1, 2000), group=st.integers(1, 300), groups=st.integers(1, 8))
def test_every_image_is_in_one_group_of_nearly_equal_size(count: int, group: int, groups: int) -> None:
    parts = batches_of_groups(count, group, groups)
    places = range(count)
    assert [place for part in parts for place in places[part.images]] == list(places)
    sizes: list[int] = []
    for part in parts:
        number, rest = divmod(len(places[part.images]), part.group)
        assert rest == 0
        assert 1 <= number <= groups
        sizes += [part.group] * number
    assert max(sizes) <= group
    assert max(sizes) - min(sizes) <= 1
    assert (len(sizes) - 1) * group < count  # no more groups than needed


def test_what_does_not_divide_is_spread() -> None:
    assert batches_of_groups(26, 8, 2) == [Part(slice(0, 14), 7), Part(slice(14, 26), 6)]
    assert batches_of_groups(5, 8, 2) == [Part(slice(0, 5), 5)]


# Rolls.


IMAGES = torch.arange(2 * 3 * 7 * 6).view(2, 3, 7, 6).float()  # every pixel is unlike every other


def test_one_offset_in_range_moves_the_whole_batch_and_every_offset_comes() -> None:
    rng, seen = stream(0, "t"), []
    for _ in range(400):
        found = roll(IMAGES, 2, rng).numpy()
        down, right = (int(place[0]) for place in np.where(found[0, 0] == 0))
        down, right = (down + 3) % 7 - 3, (right + 3) % 6 - 3
        np.testing.assert_array_equal(found, np.roll(IMAGES.numpy(), (down, right), axis=(2, 3)))
        seen.append((down, right))
    assert set(seen) == {(down, right) for down in range(-2, 3) for right in range(-2, 3)}


def test_no_jitter_is_the_identity() -> None:
    assert torch.equal(roll(IMAGES, 0, stream(0, "t")), IMAGES)


def test_offsets_depend_on_the_generator_alone() -> None:
    first, again = (roll(IMAGES, 3, stream(5, "t")) for _ in range(2))
    assert torch.equal(first, again)


# Where images start.


@pytest.mark.parametrize("distribution", ["uniform", "normal"])
def test_starts_have_the_stated_mean_and_standard_deviation(distribution) -> None:
    start = Init(distribution=distribution, mean=0.4, std=0.1, resolution=64)
    images = start.draw((50, 1, 16, 16), stream(0, "t"))
    assert images.mean().item() == pytest.approx(0.4, abs=0.005)
    assert images.std().item() == pytest.approx(0.1, rel=0.03)


def test_a_coarse_start_is_smooth_and_stays_in_range() -> None:
    def roughness(resolution: int) -> float:
        images = Init(distribution="normal", mean=0.5, std=1, resolution=resolution).draw((20, 1, 32, 32), rng())
        assert images.min() >= 0
        assert images.max() <= 1
        return (images[..., 1:] - images[..., :-1]).abs().mean().item()

    def rng() -> torch.Generator:
        return stream(0, "t")

    assert roughness(4) < roughness(8) < roughness(32) / 2


def test_uniform_starts_fill_the_unit_interval_at_its_standard_deviation() -> None:
    images = Init(distribution="uniform", mean=0.5, std=12**-0.5, resolution=8).draw((200, 1, 8, 8), stream(0, "t"))
    histogram = torch.histc(images, 10, 0, 1) / images.numel()
    torch.testing.assert_close(histogram, torch.full((10,), 0.1), atol=0.01, rtol=0)


# Labels.


def test_balanced_gives_each_group_its_share_and_spreads_the_rest_over_distinct_groups() -> None:
    counts = torch.bincount(balanced(47, 10, stream(0, "test")), minlength=10)
    assert counts.sum() == 47
    assert set(counts.tolist()) == {4, 5}


# Trouble, and the compiler.


@pytest.mark.parametrize(("steps", "step", "loss"), [(7, 7, float("inf")), (120, 50, float("nan"))])
def test_losses_that_are_not_finite_end_the_optimisation(compute: Compute, steps: int, step: int, loss: float) -> None:
    done: list[int] = []

    def objective(x: torch.Tensor) -> torch.Tensor:
        done.append(len(done) + 1)
        return (x * (loss if len(done) > 5 else 1)).sum((1, 2, 3))

    with pytest.raises(
        MethodError, match=rf"step {step} of {steps}: the loss is (inf|nan); lower learning_rate .0.05."
    ):
        descend(torch.rand(2, 1, 4, 4), objective, steps=steps, adam=Adam(0.05), bound="clamp", compute=compute)
    assert len(done) == step


_SCRIPT = """
import sys, torch
from pipeline.optimise.pixels import Adam, descend, quick
from tests.support import CPU, calibrated_teacher
net = calibrated_teacher("lenet5", 16)
auto = CPU.model_copy(update={"compile": "auto"})
loss = quick(lambda images: net(images).sum(1), net, (2, 1, 16, 16), 3, auto)
descend(torch.rand(2, 1, 16, 16), loss, steps=3, adam=Adam(0.1), bound="clamp", compute=auto)
print("torch._dynamo" in sys.modules)
"""


def test_the_loop_does_not_load_the_compiler_where_it_is_not_worth_while() -> None:
    """Constructing an optimiser of torch.optim does, for seconds, and so does torch's counter of operations."""
    found = subprocess.run([sys.executable, "-c", _SCRIPT], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


def test_a_step_has_the_bits_of_torchs_fused_adam(compute: Compute) -> None:
    start = torch.rand(2, 3, 5, 4, generator=torch.Generator().manual_seed(0))
    found = descend(
        start, lambda x: (x.sin() * x).sum((1, 2, 3)), steps=9, adam=Adam(0.03, (0.8, 0.99)), bound="free",
        compute=compute,
    )  # fmt: skip
    pixels = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([pixels], lr=0.03, betas=(0.8, 0.99), fused=True)
    for _ in range(9):
        optimizer.zero_grad()
        (pixels.sin() * pixels).sum().backward()
        optimizer.step()
    assert torch.equal(found, pixels.detach().clamp(0, 1))
