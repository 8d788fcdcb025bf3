"""The two layers that are quick on a CPU compute what torch's do."""

from typing import Any

import pytest
import torch
from torch import nn

from pipeline.nets.layers import MaxPool2x2, StemConv2d


@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_frozen_stem_is_torchs_convolution_with_its_gradient(channels: int, padding: int) -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(channels, 6, 5, padding=padding).requires_grad_(False)
    stem = StemConv2d(channels, 6, 5, padding=padding).requires_grad_(False)
    stem.load_state_dict(plain.state_dict())
    images = torch.rand(4, channels, 12, 10)
    found, expected = images.clone().requires_grad_(), images.clone().requires_grad_()
    ours, theirs = stem(found), plain(expected)
    gradient = torch.randn_like(theirs)
    ours.backward(gradient)
    theirs.backward(gradient)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(found.grad, expected.grad)


def test_the_gradient_is_a_gradient() -> None:
    stem = StemConv2d(2, 3, 3, padding=1).double().requires_grad_(False)
    assert torch.autograd.gradcheck(stem, torch.rand(2, 2, 5, 5, dtype=torch.float64, requires_grad=True))


@pytest.mark.parametrize("options", [{"stride": 2}, {"dilation": 2}, {"groups": 2}, {"padding": "same"}])
def test_other_convolutions_are_left_to_torch(options: dict[str, Any]) -> None:
    stem = StemConv2d(2, 4, 3, **options).requires_grad_(False)
    images = torch.rand(2, 2, 9, 9, requires_grad=True)
    assert "_Frozen" not in str(stem(images).grad_fn)


def test_weights_that_are_trained_get_their_gradient() -> None:
    stem = StemConv2d(1, 2, 3)
    stem(torch.rand(1, 1, 5, 5, requires_grad=True)).sum().backward()
    assert stem.weight.grad is not None


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(3, 2, 8, 8), (2, 5, 7, 10), (1, 1, 2, 3)])
@pytest.mark.parametrize("levels", [3, 1000])  # few levels: many ties
def test_pooling_is_torchs_with_its_gradients(shape: tuple[int, ...], layout: torch.memory_format, levels: int) -> None:
    rng = torch.Generator().manual_seed(0)
    images = (torch.randint(0, levels, shape, generator=rng).float() / levels).to(memory_format=layout)
    gradient = torch.randn(shape[0], shape[1], shape[2] // 2, shape[3] // 2, generator=rng)
    found, expected = images.clone().requires_grad_(), images.clone().requires_grad_()
    ours, theirs = MaxPool2x2()(found), torch.nn.MaxPool2d(2)(expected)
    ours.backward(gradient)
    theirs.backward(gradient)
    assert torch.equal(ours, theirs)
    torch.testing.assert_close(found.grad, expected.grad)


def test_pooling_compiles_to_torchs() -> None:
    images = torch.rand(2, 3, 6, 6)
    compiled = torch.compile(MaxPool2x2(), backend="eager")
    assert torch.equal(compiled(images), torch.nn.MaxPool2d(2)(images))
