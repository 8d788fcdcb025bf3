"""DAFL's losses against numpy."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from torch import Tensor

from pipeline.losses.dafl import activation, information_entropy, one_hot_loss

LOGITS = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


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
