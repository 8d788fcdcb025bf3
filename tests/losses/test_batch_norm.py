from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.losses.batch_norm import BatchNormStatistics, _moments, moments
from pipeline.nets import batch_norms
from pipeline.optimise.pixels import Adam, descend
from tests.support import CPU


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def in_numpy(maps: Tensor, shift: Tensor, groups: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean less shift, and biased variance, [groups, C], in float64."""
    x = maps.double().numpy()
    x = x.reshape(groups, len(x) // groups, x.shape[1], -1)
    return x.mean((1, 3)) - shift.double().numpy(), x.var((1, 3))


def small_net() -> nn.Sequential:
    """Convolutions and a linear layer, each with BatchNorm, whose statistics are those of no data."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 3, 3), nn.BatchNorm2d(3), nn.Tanh(),
            nn.Flatten(), nn.Linear(12, 7), nn.BatchNorm1d(7), nn.Linear(7, 4),
        )  # fmt: skip
        for layer in batch_norms(net):
            layer.running_mean.uniform_(-0.5, 0.5)  # type: ignore[union-attr]
            layer.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    return net.eval()


def images(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 2, 6, 6, generator=rng(seed))


def take(net: nn.Module, x: Tensor, group: int, first: float = 1.0) -> Tensor:
    with BatchNormStatistics(net, group, first) as statistics:
        net(x)
        return statistics.take()


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("shape", [(6, 4, 3, 5), (6, 4), (6, 4, 7), (6, 2, 3, 2, 2)])
def test_moments_against_numpy(groups: int, shape: tuple[int, ...]) -> None:
    maps = torch.randn(shape, dtype=torch.float64, generator=rng())
    shift = torch.randn(shape[1], dtype=torch.float64, generator=rng(1))
    for found, expected in zip(moments(maps, shift, groups), in_numpy(maps, shift, groups), strict=True):
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_moments_do_not_depend_on_the_memory_layout(layout: torch.memory_format) -> None:
    maps = torch.randn(6, 4, 3, 5, dtype=torch.float64, generator=rng()).contiguous(memory_format=layout)
    for found, expected in zip(moments(maps, torch.zeros(4), 2), in_numpy(maps, torch.zeros(4), 2), strict=True):
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("path", [moments, lambda *given: _moments(*given)[:2]], ids=["by hand", "by autograd"])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("shape", [(4, 2, 3, 2), (4, 2)])
def test_gradient_of_moments(path: Callable[..., Any], groups: int, shape: tuple[int, ...]) -> None:
    maps = torch.randn(shape, dtype=torch.float64, generator=rng()).requires_grad_()
    shift = torch.randn(2, dtype=torch.float64, generator=rng(1))
    assert torch.autograd.gradcheck(lambda x: path(x, shift, groups), maps)


def test_the_gradient_by_hand_is_the_one_autograd_finds() -> None:
    shift = torch.randn(4, generator=rng(1))
    maps = torch.randn(6, 4, 3, 5, generator=rng()).requires_grad_()
    weights = torch.randn(2, 2, 4, generator=rng(2))
    gradients = []
    for mean, variance in (moments(maps, shift, 2), _moments(maps, shift, 2)[:2]):
        loss = (mean * weights[0]).sum() + (variance * weights[1]).sum()
        gradients.append(torch.autograd.grad(loss, maps)[0])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-7)


def test_the_shift_keeps_the_digits_of_maps_far_from_zero() -> None:
    """Without it, E[x^2] - E[x]^2 is a difference of two numbers near a million."""
    maps = 1000 + torch.randn(64, 3, 8, 8, generator=rng())
    shift = torch.tensor([999.7, 1000.0, 1000.4])
    mean, variance = moments(maps, shift, 2)
    expected_mean, expected_variance = in_numpy(maps, shift, 2)
    np.testing.assert_allclose(mean.numpy(), expected_mean, atol=1e-5)
    np.testing.assert_allclose(variance.numpy(), expected_variance, rtol=1e-5)
    plain = (maps**2).mean((0, 2, 3)) - maps.mean((0, 2, 3)) ** 2
    assert np.abs(plain.numpy() - expected_variance.mean(0)).max() > 1e-2


def test_half_precision_maps_have_float32_statistics() -> None:
    maps = (3 + torch.randn(64, 3, 8, 8, generator=rng())).bfloat16().requires_grad_()
    shift = torch.full((3,), 2.5)
    mean, variance = moments(maps, shift, 2)
    assert mean.dtype == variance.dtype == torch.float32
    for found, expected in zip((mean, variance), in_numpy(maps.detach(), shift, 2), strict=True):
        np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-5)
    (gradient,) = torch.autograd.grad(mean.sum() + variance.sum(), maps)
    assert gradient.dtype == torch.bfloat16


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("first", [1.0, 10.0])
def test_the_distance_against_numpy(groups: int, first: float) -> None:
    net, x = small_net(), images(6)
    expected = np.zeros(groups)
    for place, factor in ((1, first), (4, 1.0), (8, 1.0)):
        layer: Any = net[place]
        mean, variance = in_numpy(net[:place](x).detach(), layer.running_mean, groups)
        off = variance - layer.running_var.double().numpy()
        expected += factor * (np.sqrt((mean**2).sum(1)) + np.sqrt((off**2).sum(1)))
    found = take(net, x, 6 // groups, first)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-5)


def test_a_group_does_not_depend_on_the_others() -> None:
    net, x = small_net(), images(9)
    torch.testing.assert_close(take(net, x, 3)[1:2], take(net, x[3:6], 3))


def test_the_data_that_made_the_statistics_is_at_no_distance() -> None:
    net, x = small_net(), images(32)
    for layer in batch_norms(net):
        layer.momentum = 1.0
    net.train()(x)
    for layer, count in zip(batch_norms(net), (32 * 16, 32 * 4, 32), strict=True):
        layer.running_var *= (count - 1) / count  # type: ignore[operator] # PyTorch keeps the unbiased one
    net.eval()
    own, other = take(net, x, 32), take(net, images(32, seed=1) ** 3, 32)
    assert own.item() < 1e-4
    assert other.item() > 0.1


def test_only_layers_with_statistics_are_looked_at() -> None:
    net = nn.Sequential(nn.BatchNorm2d(2), nn.BatchNorm2d(2, track_running_stats=False), nn.GroupNorm(1, 2))
    assert batch_norms(net) == [net[0]]


def test_frozen_and_unfrozen_networks_give_the_same_gradients() -> None:
    net, x = small_net(), images(6).requires_grad_()
    (unfrozen,) = torch.autograd.grad(take(net, x, 3).sum(), x)
    net.requires_grad_(requires_grad=False)
    (frozen,) = torch.autograd.grad(take(net, x, 3).sum(), x)
    assert unfrozen.abs().sum() > 0
    assert torch.equal(frozen, unfrozen)


def condition(net: nn.Module) -> list[Any]:
    """Everything that looking at a network could leave changed."""
    flags = [(m.training, len(m._forward_pre_hooks), len(m._forward_hooks)) for m in net.modules()]
    values = {name: value.tolist() for name, value in net.state_dict().items()}
    return [flags, values, [(p.requires_grad, p.grad) for p in net.parameters()]]


@pytest.mark.parametrize("end", ["last step", "early stop", "exception"])
def test_however_it_ends_the_network_is_as_before_and_can_be_looked_at_again(end: str) -> None:
    net = small_net()
    before = condition(net)
    statistics = BatchNormStatistics(net, 3, 1.0)
    expected = take(net, images(6), 3)

    def objective(x: Tensor) -> Tensor:
        net(x)
        if end == "exception":
            raise ArithmeticError
        return statistics.take()

    def run() -> None:
        with statistics:
            assert condition(net) != before
            descend(
                images(6), objective, steps=3, adam=Adam(0.1), bound="clamp", compute=CPU,
                watch=lambda _, done: end == "early stop" and done == 2,
            )  # fmt: skip

    if end == "exception":
        with pytest.raises(ArithmeticError):
            run()
    else:
        run()
    assert condition(net) == before
    with statistics:
        net(images(6))
        assert torch.equal(statistics.take(), expected)
    assert condition(net) == before
