import math

import numpy as np
import pytest
import torch
from scipy import special
from scipy.spatial import distance
from torch import Tensor

from pipeline.losses.activation_boundary import activation_boundary
from pipeline.losses.attention import attention
from pipeline.losses.features import resized
from pipeline.losses.interpolation import mix
from pipeline.losses.logits import (
    agreement,
    cross_entropy,
    jensen_shannon,
    kl,
    l1,
    negative_logit,
    softened_cross_entropy,
)


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
    assert float(kl(student, teacher, temperature)) == pytest.approx(expected, rel=2e-4)


@pytest.mark.parametrize("temperature", [1.0, 20.0])
def test_the_gradient_of_kl_is_tau_times_the_difference_of_beliefs_over_the_batch(temperature):
    """d/dS of tau^2 KL = tau (softmax(S / tau) - softmax(T / tau)) / B, Hinton et al. (2015), eq. 2."""
    student, teacher = logits(0).requires_grad_(), logits(1)
    kl(student, teacher, temperature).backward()
    beliefs = [softmax(value.detach().numpy() / temperature) for value in (student, teacher)]
    np.testing.assert_allclose(student.grad.numpy(), temperature * (beliefs[0] - beliefs[1]) / 5, rtol=1e-3, atol=1e-5)


def test_kl_is_zero_for_equal_beliefs_and_does_not_see_a_shift_of_logits():
    assert float(kl(logits(0), logits(0) + 7, 4.0)) == pytest.approx(0, abs=1e-5)


def test_kl_is_computed_in_float32_whatever_comes_in():
    loss = kl(logits(0).bfloat16(), logits(1).half(), 2.0)
    assert loss.dtype == torch.float32


def test_kl_survives_logits_that_would_overflow_a_naive_softmax():
    student = torch.tensor([[1e4, -1e4]], requires_grad=True)
    loss = kl(student, torch.tensor([[-1e4, 1e4]]), 1.0)
    loss.backward()
    assert loss.item() == pytest.approx(2e4)
    assert bool(torch.isfinite(student.grad).all())


def test_cross_entropy_takes_classes_or_distributions():
    student = logits(0)
    classes = torch.tensor([0, 3, 1, 1, 2])
    log_q = np.log(softmax(student.numpy()))
    assert float(cross_entropy(student, classes)) == pytest.approx(-log_q[range(5), classes].mean(), rel=1e-5)
    soft = torch.full((5, 4), 0.25)
    assert float(cross_entropy(student, soft)) == pytest.approx(-0.25 * log_q.sum(1).mean(), rel=1e-5)


def test_mix_is_exact_interpolation_with_the_neighbour_before():
    values, share = logits(0).float(), torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0])
    mixed = mix(values, share)
    for index, own in enumerate(share.tolist()):
        expected = own * values[index] + (1 - own) * values[index - 1]
        torch.testing.assert_close(mixed[index], expected)
    assert torch.equal(mixed[0], values[-1])
    assert torch.equal(mixed[4], values[4])


def test_mix_takes_images():
    images = torch.rand(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(mix(images, torch.ones(3)), images)
    assert torch.equal(mix(images, torch.zeros(3)), images[[2, 0, 1]])


def test_mixing_probabilities_gives_probabilities():
    rows = logits(3).float().softmax(1)
    mixed = mix(rows, torch.rand(5, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(mixed.sum(1), torch.ones(5))


def test_agreement_counts_equal_argmax():
    ones = torch.eye(4)
    assert float(agreement(ones, ones.roll(1, 0))) == 0
    assert math.isclose(float(agreement(ones, torch.eye(4)[[0, 1, 3, 3]])), 0.75)


def maps(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_l1_is_the_mean_over_batch_and_classes_and_has_a_gradient_of_signs():
    student, teacher = logits(0).requires_grad_(), logits(1)
    loss = l1(student, teacher)
    assert loss.item() == pytest.approx(np.abs(student.detach().numpy() - teacher.numpy()).sum() / 20, rel=1e-6)
    loss.backward()
    np.testing.assert_allclose(student.grad.numpy(), np.sign(student.detach().numpy() - teacher.numpy()) / 20)


def attention_by_hand(student: np.ndarray, teacher: np.ndarray) -> float:
    """The published loop: mean of squares over channels, flat, unit length; then the mean squared difference."""
    rows = []
    for activations in (student, teacher):
        flat = np.mean(activations.astype(np.float64) ** 2, axis=1).reshape(len(activations), -1)
        rows.append(flat / np.sqrt((flat**2).sum(1, keepdims=True)))
    return float(np.mean((rows[0] - rows[1]) ** 2))


def test_attention_is_the_published_distance_of_normalised_maps_of_any_two_widths():
    student, teacher = maps(0, 4, 3, 6, 5), maps(1, 4, 7, 6, 5)
    expected = attention_by_hand(student.numpy(), teacher.numpy())
    assert float(attention(student, teacher)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("flip", [False, True])
def test_the_larger_attention_map_is_averaged_down_before_it_is_normalised(flip):
    small, large = maps(0, 2, 3, 4, 3), maps(1, 2, 5, 8, 6)
    squares = np.mean(large.numpy().astype(np.float64) ** 2, axis=1).reshape(2, 4, 2, 3, 2).mean((2, 4))
    expected = attention_by_hand(small.numpy(), np.sqrt(squares)[:, None])
    pair = (large, small) if flip else (small, large)
    assert float(attention(*pair)) == pytest.approx(expected, rel=1e-5)


def test_each_axis_of_attention_maps_is_brought_to_the_smaller_of_the_two():
    tall, wide = maps(0, 2, 3, 8, 3), maps(1, 2, 3, 4, 6)
    squares = [np.mean(each.numpy().astype(np.float64) ** 2, axis=1) for each in (tall, wide)]
    down = [squares[0].reshape(2, 4, 2, 3).mean(2), squares[1].reshape(2, 4, 3, 2).mean(3)]
    expected = attention_by_hand(*(np.sqrt(each)[:, None] for each in down))
    assert float(attention(tall, wide)) == pytest.approx(expected, rel=1e-5)


def test_attention_does_not_see_scale_and_survives_a_block_that_is_dead():
    student = maps(0, 2, 3, 4, 4)
    assert float(attention(student, 5 * student)) == pytest.approx(0, abs=1e-12)
    dead = torch.zeros(2, 3, 4, 4, requires_grad=True)
    attention(dead, student).backward()
    assert bool(torch.isfinite(dead.grad).all())


def hinge(s: float, t: float, m: float) -> float:
    """Heo et al. (2019), equation 5, case by case."""
    if t <= 0:
        return (s + m) ** 2 if s > -m else 0.0
    return (s - m) ** 2 if s <= m else 0.0


@pytest.mark.parametrize("margin", [0.5, 1.0])
@pytest.mark.parametrize("t", [-2.0, 0.0, 1e-6, 3.0])
@pytest.mark.parametrize("s", [-3.0, -1.0, -0.5, -0.2, 0.0, 0.2, 0.5, 1.0, 3.0])
def test_the_hinge_has_the_published_value_and_slope_on_either_side_of_every_edge(s, t, margin):
    student = torch.tensor([[[[s]]]], requires_grad=True)
    loss = activation_boundary(student, torch.tensor([[[[t]]]]), margin)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(hinge(s, t, margin), abs=1e-6)
    slope = (hinge(s + 1e-4, t, margin) - hinge(s - 1e-4, t, margin)) / 2e-4
    assert float(student.grad) == pytest.approx(slope, abs=1e-3)


def test_activation_boundaries_are_averaged_over_batch_and_neurons_and_do_not_mind_a_relu_on_the_teacher():
    student, teacher = maps(0, 2, 3, 4, 5), maps(1, 2, 3, 4, 5)
    pairs = zip(student.flatten().tolist(), teacher.flatten().tolist(), strict=True)
    expected = sum(hinge(s, t, 1.0) for s, t in pairs) / 120
    assert float(activation_boundary(student, teacher, 1.0)) == pytest.approx(expected, rel=1e-5)
    assert torch.equal(activation_boundary(student, teacher.relu(), 1.0), activation_boundary(student, teacher, 1.0))


def test_the_teacher_s_responses_get_no_gradient_from_the_hinge():
    teacher = maps(1, 1, 2, 3, 3).requires_grad_()
    loss = activation_boundary(maps(0, 1, 2, 3, 3).requires_grad_(), teacher, 1.0)
    loss.backward()
    assert teacher.grad is None


def test_maps_are_averaged_down_kept_or_interpolated_up():
    values = torch.arange(16.0).view(1, 1, 4, 4)
    assert resized(values, 4, 4) is values
    assert resized(values, 2, 2).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    up = resized(values, 8, 8)
    assert up.shape == (1, 1, 8, 8)
    assert up[0, 0, 0].tolist() == pytest.approx([0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3])


@pytest.mark.parametrize("kind", ["attention", "activation_boundary", "l1"])
def test_halves_are_computed_in_float32(kind):
    shape = (2, 4) if kind == "l1" else (2, 3, 4, 4)
    student, teacher = maps(0, *shape), maps(1, *shape)
    loss = {"attention": attention, "activation_boundary": activation_boundary, "l1": l1}[kind]
    extra = (1.0,) if kind == "activation_boundary" else ()
    halved = loss(student.bfloat16(), teacher.bfloat16(), *extra)
    assert halved.dtype == torch.float32
    assert torch.equal(halved, loss(student.bfloat16().float(), teacher.bfloat16().float(), *extra))


# Those that steer images, one number each.

LOGITS = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
OTHERS = 3 * torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_softened_cross_entropy_against_numpy() -> None:
    targets = torch.rand(6, 4, generator=torch.Generator().manual_seed(1)).softmax(1)
    expected = -(targets.numpy() * special.log_softmax(LOGITS.numpy() / 20, axis=1)).sum(1)
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
    beliefs = (special.softmax(each / temperature, 1) for each in (logits, others))
    return distance.jensenshannon(*beliefs, axis=1) ** 2


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
