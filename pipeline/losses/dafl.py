"""DAFL's three losses of a generator's batch, Chen et al. (ICCV 2019): scalars."""

import math

from torch import Tensor
from torch.nn.functional import cross_entropy

__all__ = ["activation", "information_entropy", "one_hot_loss"]


def one_hot_loss(logits: Tensor) -> Tensor:
    """Cross-entropy of the beliefs with their own first choice, mean over the batch; equation 2.

    Args:
        logits: [N, K].
    """
    return cross_entropy(logits.float(), logits.detach().argmax(1))


def activation(features: Tensor) -> Tensor:
    """-mean |f|, over the batch and all features; equation 3, as released (mean, where the paper sums over f).

    Args:
        features: [N, D], what the teacher's last layer sees.
    """
    return -features.float().abs().mean()


def information_entropy(logits: Tensor) -> Tensor:
    """sum_k p_k log10 p_k of the batch's mean belief p; equation 4. Logarithm to base 10.

    Minus the entropy, so that minimising it spreads the batch over the classes: from -log10 K, balanced, to 0. The
    paper writes log without a base; the released code, whose weights are the published ones, has log10, a factor of
    0.434 to the natural logarithm.

    Args:
        logits: [N, K].
    """
    # In logarithms: the gradient of p log p through a belief that underflowed to 0 is not a number.
    log_belief = logits.float().log_softmax(1).logsumexp(0) - math.log(len(logits))
    return (log_belief.exp() * log_belief).sum() / math.log(10)
