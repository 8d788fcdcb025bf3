"""Losses of logits: per image, [N], where they steer images; of a batch, a scalar, where they train a generator."""

import math

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax

__all__ = [
    "activation",
    "information_entropy",
    "jensen_shannon",
    "negative_logit",
    "one_hot_loss",
    "softened_cross_entropy",
]


def softened_cross_entropy(logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """-sum_k y_k log softmax(z / tau)_k, [N]; ZSKD, equation 3.

    Args:
        logits: [N, K].
        targets: [N, K], rows sum to 1.
        temperature: tau.
    """
    return -(targets * log_softmax(logits.float() / temperature, dim=1)).sum(dim=1)


def negative_logit(logits: Tensor, labels: Tensor) -> Tensor:
    """-z_c, the pre-softmax logit of each image's class, [N]; class impressions, Mopuri et al. (ECCV 2018).

    Args:
        logits: [N, K].
        labels: [N] class indices.
    """
    return -logits.float().gather(1, labels.unsqueeze(1)).squeeze(1)


def jensen_shannon(logits: Tensor, others: Tensor, temperature: float) -> Tensor:
    """Jensen-Shannon divergence between two networks' softened predictions, [N], in nats: 0 to log 2.

    JS(p, q) = (KL(p || m) + KL(q || m)) / 2 with m = (p + q) / 2; adaptive DeepInversion, Yin et al. (CVPR 2020),
    equations 7 and 8. Departure: the released code has KL(m || p) and KL(m || q) instead, and clamps all
    probabilities to [0.01, 0.99], which takes the gradient away where the two networks are sure. As the divergence
    itself has none where both are equal, a proxy that is a copy of its teacher cannot be competed with.

    Args:
        logits: [N, K].
        others: [N, K].
        temperature: tau, of both.
    """
    log_p, log_q = (log_softmax(each.float() / temperature, dim=1) for each in (logits, others))
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    return ((log_p.exp() * (log_p - log_m)).sum(dim=1) + (log_q.exp() * (log_q - log_m)).sum(dim=1)) / 2


def one_hot_loss(logits: Tensor) -> Tensor:
    """Cross-entropy of the beliefs with their own first choice, mean over the batch; DAFL, Chen et al. (2019), eq. 2.

    Args:
        logits: [N, K].
    """
    return cross_entropy(logits.float(), logits.detach().argmax(1))


def activation(features: Tensor) -> Tensor:
    """-mean |f|, over the batch and all features; DAFL, equation 3, as released (mean, where the paper sums over f).

    Args:
        features: [N, D], what the teacher's last layer sees.
    """
    return -features.float().abs().mean()


def information_entropy(logits: Tensor) -> Tensor:
    """sum_k p_k log10 p_k of the batch's mean belief p; DAFL, equation 4. Logarithm to base 10.

    Minus the entropy, so that minimising it spreads the batch over the classes: from -log10 K, balanced, to 0. The
    paper writes log without a base; the released code, whose weights are the published ones, has log10, a factor of
    0.434 to the natural logarithm.

    Args:
        logits: [N, K].
    """
    # In logarithms: the gradient of p log p through a belief that underflowed to 0 is not a number.
    log_belief = logits.float().log_softmax(1).logsumexp(0) - math.log(len(logits))
    return (log_belief.exp() * log_belief).sum() / math.log(10)
