"""Student-side losses: what a student is asked to match. One implementation for students and proxy students."""

from torch import Tensor
from torch.nn import functional

__all__ = ["agreement", "cross_entropy", "distillation", "kl", "mix"]


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
    log_student = functional.log_softmax(student.float() / temperature, dim=1)
    log_teacher = functional.log_softmax(teacher.float() / temperature, dim=1)
    loss = functional.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)
    return loss * temperature**2


def distillation(student: Tensor, teacher: Tensor, temperature: float) -> dict[str, Tensor]:
    """What a training step reports of logits [B, K]: `kl` as "loss", and "agreement"."""
    return {"loss": kl(student, teacher, temperature), "agreement": agreement(student, teacher)}


def cross_entropy(student: Tensor, target: Tensor) -> Tensor:
    """-sum_k y_k log softmax(S)_k, in nats, mean over the batch.

    Args:
        student: [B, K] logits S; computed in float32.
        target: [B] int64 class indices, or [B, K] probabilities y.
    """
    return functional.cross_entropy(student.float(), target)


def mix(values: Tensor, share: Tensor) -> Tensor:
    """Mixup of a batch with itself moved on by one: share_i v_i + (1 - share_i) v_(i-1).

    Zhang et al. (2018), eq. 1: the same shares for inputs and labels. Batches are in random order, so that the
    neighbour is a random partner. Departure: a share per sample, not one per batch.

    Args:
        values: [B, ...] images, one-hot labels or logits. Mixed logits are the virtual label of a mixed image when no
            teacher is at hand to label it.
        share: [B] in [0, 1], drawn from Beta(alpha, alpha).
    """
    own = share.view(-1, *[1] * (values.dim() - 1)).to(values.dtype)
    return values.roll(1, 0).lerp(values, own)


def agreement(student: Tensor, label: Tensor) -> Tensor:
    """Fraction of the batch on which two rows of scores [B, K] have the same argmax."""
    return (student.argmax(1) == label.argmax(1)).float().mean()
