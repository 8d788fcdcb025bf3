import pytest
import torch
from torch import nn

from pipeline.nets.stem import StemConv2d


@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_frozen_stem_is_torchs_convolution_with_its_gradient(channels, padding) -> None:
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
def test_other_convolutions_are_left_to_torch(options) -> None:
    stem = StemConv2d(2, 4, 3, **options).requires_grad_(False)
    images = torch.rand(2, 2, 9, 9, requires_grad=True)
    assert "_Frozen" not in str(stem(images).grad_fn)


def test_weights_that_are_trained_get_their_gradient() -> None:
    stem = StemConv2d(1, 2, 3)
    stem(torch.rand(1, 1, 5, 5, requires_grad=True)).sum().backward()
    assert stem.weight.grad is not None
