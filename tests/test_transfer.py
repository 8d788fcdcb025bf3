import math

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline import transfer


def logits(seed: int, scale: float = 3.0) -> Tensor:
    return torch.randn(5, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale


def softmax(values: np.ndarray) -> np.ndarray:
    powers = np.exp(values - values.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
def test_kl_is_tau_squared_times_the_mean_divergence_of_the_softened_beliefs(temperature):
    student, teacher = logits(0), logits(1)
    p, q = softmax(teacher.numpy() / temperature), softmax(student.numpy() / temperature)
    expected = temperature**2 * np.mean([sum(p[i] * np.log(p[i] / q[i])) for i in range(5)])
    assert float(transfer.kl(student, teacher, temperature)) == pytest.approx(expected, rel=2e-4)


@pytest.mark.parametrize("temperature", [1.0, 20.0])
def test_the_gradient_of_kl_is_tau_times_the_difference_of_beliefs_over_the_batch(temperature):
    """d/dS of tau^2 KL = tau (softmax(S / tau) - softmax(T / tau)) / B, Hinton et al. (2015), eq. 2."""
    student, teacher = logits(0).requires_grad_(), logits(1)
    transfer.kl(student, teacher, temperature).backward()
    beliefs = [softmax(value.detach().numpy() / temperature) for value in (student, teacher)]
    np.testing.assert_allclose(student.grad.numpy(), temperature * (beliefs[0] - beliefs[1]) / 5, rtol=1e-3, atol=1e-5)


def test_kl_is_zero_for_equal_beliefs_and_does_not_see_a_shift_of_logits():
    assert float(transfer.kl(logits(0), logits(0) + 7, 4.0)) == pytest.approx(0, abs=1e-5)


def test_kl_is_computed_in_float32_whatever_comes_in():
    loss = transfer.kl(logits(0).bfloat16(), logits(1).half(), 2.0)
    assert loss.dtype == torch.float32


def test_kl_survives_logits_that_would_overflow_a_naive_softmax():
    student = torch.tensor([[1e4, -1e4]], requires_grad=True)
    loss = transfer.kl(student, torch.tensor([[-1e4, 1e4]]), 1.0)
    loss.backward()
    assert loss.item() == pytest.approx(2e4)
    assert bool(torch.isfinite(student.grad).all())


def test_cross_entropy_takes_classes_or_distributions():
    student = logits(0)
    classes = torch.tensor([0, 3, 1, 1, 2])
    log_q = np.log(softmax(student.numpy()))
    assert float(transfer.cross_entropy(student, classes)) == pytest.approx(-log_q[range(5), classes].mean(), rel=1e-5)
    soft = torch.full((5, 4), 0.25)
    assert float(transfer.cross_entropy(student, soft)) == pytest.approx(-0.25 * log_q.sum(1).mean(), rel=1e-5)


def test_mix_is_exact_interpolation_with_the_neighbour_before():
    values, share = logits(0).float(), torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0])
    mixed = transfer.mix(values, share)
    for index, own in enumerate(share.tolist()):
        expected = own * values[index] + (1 - own) * values[index - 1]
        torch.testing.assert_close(mixed[index], expected)
    assert torch.equal(mixed[0], values[-1])
    assert torch.equal(mixed[4], values[4])


def test_mix_takes_images():
    images = torch.rand(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(transfer.mix(images, torch.ones(3)), images)
    assert torch.equal(transfer.mix(images, torch.zeros(3)), images[[2, 0, 1]])


def test_mixing_probabilities_gives_probabilities():
    rows = logits(3).float().softmax(1)
    mixed = transfer.mix(rows, torch.rand(5, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(mixed.sum(1), torch.ones(5))


def test_agreement_counts_equal_argmax():
    ones = torch.eye(4)
    assert float(transfer.agreement(ones, ones.roll(1, 0))) == 0
    assert math.isclose(float(transfer.agreement(ones, torch.eye(4)[[0, 1, 3, 3]])), 0.75)
