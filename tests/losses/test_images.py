from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.losses.images import norm, total_variation, total_variation_l2

IMAGES = torch.rand(3, 2, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_total_variation_against_numpy() -> None:
    x = IMAGES.numpy()
    expected = np.abs(np.diff(x, axis=3)).sum((1, 2, 3)) + np.abs(np.diff(x, axis=2)).sum((1, 2, 3))
    np.testing.assert_allclose(total_variation(IMAGES).numpy(), expected, rtol=1e-12)


def test_total_variation_gradient() -> None:
    assert torch.autograd.gradcheck(total_variation, IMAGES.clone().requires_grad_())


def l2_in_numpy(x: np.ndarray) -> float:
    """Over all images given: the sum of the four Frobenius norms."""
    h, w = x.shape[2:]
    total = 0.0
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
        here = x[:, :, : h - down, max(0, -right) : w - max(0, right)]
        there = x[:, :, down:, max(0, right) : w + min(0, right)]
        total += np.sqrt(((here - there) ** 2).sum())
    return total


@pytest.mark.parametrize("group", [1, 3])
def test_l2_total_variation_against_numpy(group: int) -> None:
    expected = [l2_in_numpy(part.numpy()) for part in IMAGES.split(group)]
    np.testing.assert_allclose(total_variation_l2(IMAGES, group).numpy(), expected, rtol=1e-12)


def test_l2_total_variation_grows_with_the_square_root_of_the_group() -> None:
    one = total_variation_l2(IMAGES[:1], 1)
    torch.testing.assert_close(total_variation_l2(IMAGES[:1].repeat(4, 1, 1, 1), 4), 2 * one)


def test_l2_total_variation_gradient() -> None:
    assert torch.autograd.gradcheck(lambda x: total_variation_l2(x, 3), IMAGES.clone().requires_grad_())


def test_norm_against_numpy() -> None:
    expected = np.linalg.norm(IMAGES.numpy().reshape(3, -1), axis=1)
    np.testing.assert_allclose(norm(IMAGES).numpy(), expected, rtol=1e-12)


def test_norm_gradient() -> None:
    assert torch.autograd.gradcheck(norm, IMAGES.clone().requires_grad_())


@pytest.mark.parametrize("prior", [total_variation, lambda x: total_variation_l2(x, 1), norm])
def test_the_least_image_of_a_prior_has_no_gradient_rather_than_nan(prior: Callable[[Tensor], Tensor]) -> None:
    flat = torch.zeros(2, 1, 4, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(prior(flat).sum(), flat)
    assert torch.equal(gradient, torch.zeros(2, 1, 4, 4))
