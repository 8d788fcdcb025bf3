import numpy as np
import torch

from pipeline.synthesis.priors import total_variation

IMAGES = torch.rand(3, 2, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_total_variation_against_numpy() -> None:
    x = IMAGES.numpy()
    expected = np.abs(np.diff(x, axis=3)).sum((1, 2, 3)) + np.abs(np.diff(x, axis=2)).sum((1, 2, 3))
    np.testing.assert_allclose(total_variation(IMAGES).numpy(), expected, rtol=1e-12)


def test_total_variation_gradient() -> None:
    assert torch.autograd.gradcheck(total_variation, IMAGES.clone().requires_grad_())
