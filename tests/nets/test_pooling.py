import pytest
import torch

from pipeline.nets.pooling import MaxPool2x2


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(3, 2, 8, 8), (2, 5, 7, 10), (1, 1, 2, 3)])
@pytest.mark.parametrize("levels", [3, 1000])  # few levels: many ties
def test_pooling_is_torchs_with_its_gradients(shape, layout, levels) -> None:
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
