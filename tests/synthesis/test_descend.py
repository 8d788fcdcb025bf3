import numpy as np
import pytest
import torch

from pipeline.core.device import Compute
from pipeline.synthesis.descend import Adam, descend, keep_in_range
from pipeline.synthesis.losses import softened_cross_entropy
from pipeline.teacher.model import Teacher


def numpy_adam(x: np.ndarray, gradient, steps: int, rate: float) -> np.ndarray:
    m = v = np.zeros_like(x)
    for t in range(1, steps + 1):
        g = gradient(x)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        x = np.clip(x - rate * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8), 0, 1)
    return x


def test_descend_is_adam_with_clamping(compute: Compute) -> None:
    goal = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0)) * 1.4 - 0.2  # partly out of range
    start = torch.full((3, 1, 4, 4), 0.5)
    found = descend(
        start, lambda x: ((x - goal) ** 2).sum((1, 2, 3)), steps=25, adam=Adam(0.05), bound="clamp", compute=compute
    )
    expected = numpy_adam(start.double().numpy(), lambda x: 2 * (x - goal.double().numpy()), 25, 0.05)
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
