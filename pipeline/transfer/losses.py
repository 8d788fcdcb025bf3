"""Student-side losses as functions of tensors."""

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["activation_boundary", "agreement", "attention", "cross_entropy", "distillation", "kl", "l1", "mix"]


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


def l1(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean absolute difference of logits over the batch and the classes; DFAD, Fang et al. (2019), equation 4.

    Args:
        student: [B, K] logits S, any float type; computed in float32.
        teacher: [B, K] logits T.
    """
    return (student.float() - teacher.float()).abs().mean()


def attention(student: Tensor, teacher: Tensor) -> Tensor:
    """Distance of two attention maps, Zagoruyko & Komodakis (2017), equation 2, as ZSKT uses it.

    The map of a block is Q = mean over channels of A^2, flattened and divided by its L2 norm; the loss is the mean of
    (Q_S - Q_T)^2 over the batch and the positions (Micaelli & Storkey 2019, released code; the paper of 2017 takes
    the norm). Where sizes differ the larger map is averaged down to the smaller one before it is normalised.

    Args:
        student: [B, C, H, W] activations A of a student's block; computed in float32.
        teacher: [B, C', H', W'] of a teacher's.
    """
    maps = [each.float().square().mean(1, keepdim=True) for each in (student, teacher)]
    height, width = (min(maps[0].shape[axis], maps[1].shape[axis]) for axis in (2, 3))
    ours, theirs = (functional.normalize(resized(each, height, width).flatten(1)) for each in maps)
    return functional.mse_loss(ours, theirs)


def activation_boundary(student: Tensor, teacher: Tensor, margin: float) -> Tensor:
    """Hinge loss that puts a student's neurons on the teacher's side of zero; Heo et al. (AAAI 2019), equation 5.

    (s + m)^2 where t <= 0 and s > -m, (s - m)^2 where t > 0 and s <= m, else 0. Departure: the mean over the batch and
    all neurons, where the released code sums over the neurons and divides by the batch alone, so that a weight here
    does not depend on the size of a block. t may be taken after a ReLU, which does not move the boundary.

    Args:
        student: [B, C, H, W] responses s, already brought to the teacher's shape; computed in float32.
        teacher: [B, C, H, W] responses t.
        margin: m.
    """
    ours = student.float()
    below = functional.relu(ours + margin).square()
    above = functional.relu(margin - ours).square()
    return torch.where(teacher > 0, above, below).mean()


def resized(maps: Tensor, height: int, width: int) -> Tensor:
    """[B, C, H, W] averaged down, or interpolated up (bilinear), to this height and width."""
    if maps.shape[-2:] == (height, width):
        return maps
    if maps.shape[-2] >= height and maps.shape[-1] >= width:
        return functional.adaptive_avg_pool2d(maps, (height, width))
    return functional.interpolate(maps, (height, width), mode="bilinear", align_corners=False)


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
