import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.spatial import distance
from scipy.special import log_softmax, softmax
from torch import Tensor

from pipeline.synthesis.losses import (
    activation,
    information_entropy,
    jensen_shannon,
    negative_logit,
    one_hot_loss,
    softened_cross_entropy,
)

LOGITS = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
OTHERS = 3 * torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_softened_cross_entropy_against_numpy() -> None:
    targets = torch.rand(6, 4, generator=torch.Generator().manual_seed(1)).softmax(1)
    expected = -(targets.numpy() * log_softmax(LOGITS.numpy() / 20, axis=1)).sum(1)
    np.testing.assert_allclose(softened_cross_entropy(LOGITS, targets, 20).numpy(), expected, rtol=1e-5)


def test_softened_cross_entropy_is_least_where_the_softened_prediction_is_the_target() -> None:
    targets = (LOGITS / 20).softmax(1).float()
    logits = LOGITS.float().requires_grad_()
    softened_cross_entropy(logits, targets, 20).sum().backward()
    assert logits.grad is not None
    assert logits.grad.abs().max() < 1e-7


def test_negative_logit_picks_each_images_class() -> None:
    labels = torch.tensor([0, 1, 2, 3, 1, 2])
    expected = [-LOGITS[i, c].item() for i, c in enumerate(labels)]
    np.testing.assert_allclose(negative_logit(LOGITS, labels).numpy(), expected, rtol=1e-6)


def js_in_scipy(logits: np.ndarray, others: np.ndarray, temperature: float) -> np.ndarray:
    return distance.jensenshannon(softmax(logits / temperature, 1), softmax(others / temperature, 1), axis=1) ** 2


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_jensen_shannon_against_scipy(temperature: float) -> None:
    expected = js_in_scipy(LOGITS.numpy(), OTHERS.numpy(), temperature)
    found = jensen_shannon(LOGITS, OTHERS, temperature)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-7)


def test_jensen_shannon_gradients_against_differences_of_scipys() -> None:
    first, second = LOGITS.clone().requires_grad_(), OTHERS.clone().requires_grad_()
    found = torch.autograd.grad(jensen_shannon(first, second, 3).sum(), (first, second))
    x, y = LOGITS.numpy(), OTHERS.numpy()
    for k, step in enumerate(np.eye(4) * 1e-5):
        along = js_in_scipy(x + step, y, 3) - js_in_scipy(x - step, y, 3)
        np.testing.assert_allclose(found[0][:, k].numpy(), along / 2e-5, atol=1e-6)
        along = js_in_scipy(x, y + step, 3) - js_in_scipy(x, y - step, 3)
        np.testing.assert_allclose(found[1][:, k].numpy(), along / 2e-5, atol=1e-6)


def test_jensen_shannon_is_symmetric_and_sees_no_difference_in_equals() -> None:
    torch.testing.assert_close(jensen_shannon(LOGITS, OTHERS, 2), jensen_shannon(OTHERS, LOGITS, 2))
    shifted = LOGITS + 5  # the same prediction
    torch.testing.assert_close(jensen_shannon(LOGITS, shifted, 2), torch.zeros(6), atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", [50.0, 1e4])
def test_jensen_shannon_of_disjoint_predictions_is_log_two_and_has_finite_gradients(size: float) -> None:
    one = torch.tensor([[size, -size, -size], [size, -size, -size]], requires_grad=True)
    other = torch.tensor([[-size, size, -size], [size, -size, -size]], requires_grad=True)
    found = jensen_shannon(one, other, 1)
    torch.testing.assert_close(found, torch.tensor([math.log(2), 0.0]))
    assert all(torch.isfinite(each).all() for each in torch.autograd.grad(found.sum(), (one, other)))


def test_one_hot_loss_is_minus_the_mean_log_belief_in_the_first_choice() -> None:
    expected = -log_softmax(LOGITS.numpy(), axis=1).max(1).mean()
    assert one_hot_loss(LOGITS).item() == pytest.approx(expected, rel=1e-6)


def test_activation_is_minus_the_mean_size_of_the_features() -> None:
    features = torch.tensor([[1.0, -2.0, 0.0], [3.0, 0.0, -6.0]])
    assert activation(features).item() == pytest.approx(-2)


def test_information_entropy_against_numpy_to_base_ten() -> None:
    belief = softmax(LOGITS.numpy(), axis=1).mean(0)
    assert information_entropy(LOGITS).item() == pytest.approx((belief * np.log10(belief)).sum(), rel=1e-6)


@pytest.mark.parametrize("size", [20.0, 1e4])
def test_information_entropy_goes_from_minus_one_for_ten_balanced_classes_to_zero_for_one(size: float) -> None:
    balanced = size * torch.eye(10).repeat(3, 1)
    single = size * torch.eye(10)[[4] * 30]
    assert information_entropy(balanced).item() == pytest.approx(-1, abs=1e-6)
    assert information_entropy(torch.zeros(30, 10)).item() == pytest.approx(-1, abs=1e-6)
    assert information_entropy(single).item() == pytest.approx(0, abs=1e-6)
    for logits in (balanced, single):
        gradient = torch.autograd.grad(information_entropy(logits.requires_grad_()), logits)[0]
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("loss", [one_hot_loss, activation, information_entropy])
def test_gradients_of_a_generators_losses_against_differences(loss: Callable[[Tensor], Tensor]) -> None:
    logits = LOGITS.float().requires_grad_()
    (found,) = torch.autograd.grad(loss(logits), logits)
    direction = torch.randn(6, 4, generator=torch.Generator().manual_seed(2))
    along = (loss(logits + 1e-2 * direction) - loss(logits - 1e-2 * direction)).item() / 2e-2
    assert (found * direction).sum().item() == pytest.approx(along, rel=1e-3, abs=1e-4)
