"""Losses of logits.

Student-side ones are means over a batch and have blocks for params.yaml (`Logits`); those that steer images are per
image, [N].
"""

import math

import torch
from pydantic import PositiveFloat, model_validator
from torch import Tensor
from torch.nn import functional
from torch.nn.functional import log_softmax

from ..core.params import Block

__all__ = [
    "KL",
    "L1",
    "CrossEntropy",
    "Logits",
    "agreement",
    "cross_entropy",
    "jensen_shannon",
    "kl",
    "l1",
    "negative_logit",
    "softened_cross_entropy",
]


def kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Distillation loss of Hinton et al. (2015), section 2.

    tau^2 KL(softmax(T / tau) || softmax(S / tau)), in nats, mean over the batch (never over the classes as well). The
    factor tau^2 keeps the size of the gradient when tau changes; the teacher's entropy, which Hinton's cross-entropy
    and ZSKD's student loss (Nayak et al. 2019, eq. 6) leave in, is a constant and has no gradient.

    Args:
        student: [B, K] logits S, any float type; computed in float32.
        teacher: [B, K] logits T.
        temperature: tau.
    """
    log_student = log_softmax(student.float() / temperature, dim=1)
    log_teacher = log_softmax(teacher.float() / temperature, dim=1)
    loss = functional.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)
    return loss * temperature**2


def l1(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean absolute difference of logits over the batch and the classes; DFAD, Fang et al. (2019), equation 4.

    Args:
        student: [B, K] logits S, any float type; computed in float32.
        teacher: [B, K] logits T.
    """
    return (student.float() - teacher.float()).abs().mean()


def cross_entropy(student: Tensor, target: Tensor) -> Tensor:
    """-sum_k y_k log softmax(S)_k, in nats, mean over the batch.

    Args:
        student: [B, K] logits S; computed in float32.
        target: [B] int64 class indices, or [B, K] probabilities y.
    """
    return functional.cross_entropy(student.float(), target)


def agreement(student: Tensor, label: Tensor) -> Tensor:
    """Fraction of the batch on which two rows of scores [B, K] have the same argmax."""
    return (student.argmax(1) == label.argmax(1)).float().mean()


class KL(Block):
    """`kl` as a block."""

    temperature: PositiveFloat  # tau

    def __call__(self, student: Tensor, target: Tensor) -> Tensor:
        """Logits [B, K] of student and teacher to a scalar."""
        return kl(student, target, self.temperature)


class L1(Block):
    """`l1` as a block."""

    def __call__(self, student: Tensor, target: Tensor) -> Tensor:
        """Logits [B, K] of student and teacher to a scalar."""
        return l1(student, target)


class CrossEntropy(Block):
    """`cross_entropy` as a block."""

    def __call__(self, student: Tensor, target: Tensor) -> Tensor:
        """Logits and probabilities [B, K] to a scalar."""
        return cross_entropy(student, target)


class Logits(Block):
    """The loss on logits, by name; one of the names is there."""

    kl: KL | None = None
    l1: L1 | None = None
    cross_entropy: CrossEntropy | None = None

    @model_validator(mode="after")
    def _one(self) -> "Logits":
        if sum(getattr(self, name) is not None for name in type(self).model_fields) != 1:
            raise ValueError(
                f"expected one of {', '.join(type(self).model_fields)}, such as {{kl: {{temperature: 4}}}}"
            )
        return self

    @property
    def name(self) -> str:
        """Which loss it is."""
        return next(name for name in type(self).model_fields if getattr(self, name) is not None)

    def __call__(self, student: Tensor, target: Tensor) -> Tensor:
        """Logits [B, K] of student and teacher (cross_entropy: probabilities of the target) to a scalar."""
        loss: KL | L1 | CrossEntropy = getattr(self, self.name)
        return loss(student, target)


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
