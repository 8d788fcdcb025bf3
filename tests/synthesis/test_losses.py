import numpy as np
import torch
from scipy.special import log_softmax

from pipeline.synthesis.losses import negative_logit, softened_cross_entropy

LOGITS = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


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
