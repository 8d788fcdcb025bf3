"""Per-image losses of logits; each returns [N]."""

from torch import Tensor
from torch.nn.functional import log_softmax

__all__ = ["negative_logit", "softened_cross_entropy"]


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
