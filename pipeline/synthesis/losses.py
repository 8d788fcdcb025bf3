"""Per-image losses of logits; each returns [N]."""

import math

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

__all__ = ["jensen_shannon", "negative_logit", "softened_cross_entropy"]


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
