"""How closely a student follows its teacher on held-out synthetic images. No real data is ever looked at here."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from ..core.device import Compute
from ..core.images import to_unit
from ..losses.logits import kl
from ..optimise.network import Row
from ..shards.reader import Dataset, Samples

__all__ = ["holdout_of"]

_CHUNK = 512  # images per forward pass: speed and memory only


def holdout_of(dataset: Dataset, keep: bool, compute: Compute) -> Callable[[nn.Module], Row] | None:
    """A function that measures a student on the dataset's holdout split, in float32; None where it has none.

    It gives `holdout_kl`, KL(teacher || student) at temperature 1 in nats, and `holdout_agreement`, the share of
    images on which both name the same class; both against the stored logits.

    Args:
        dataset: where the images are.
        keep: whether to read them once and keep them in memory; else they are read again each time.
        compute: the device to use.

    Raises:
        ShardError: a shard is damaged.
    """
    images = dataset.count("holdout")
    if images == 0:
        return None
    kept = [dataset.load("holdout")] if keep else None

    def measure(student: nn.Module) -> Row:
        kl_sum, agreed = _sums(student, kept or dataset.shards("holdout"), compute)
        # Rounding may bring the KL of equal distributions a hair below zero.
        return {"holdout_kl": max(0.0, float(kl_sum) / images), "holdout_agreement": float(agreed) / images}

    return measure


@torch.no_grad()
def _sums(student: nn.Module, parts: Iterable[Samples], compute: Compute) -> Tensor:
    device = compute.torch_device()
    sums = torch.zeros(2, dtype=torch.float64, device=device)
    for part in parts:
        for images, logits in zip(part.images.split(_CHUNK), part.logits.split(_CHUNK), strict=True):
            answers, beliefs = student(to_unit(images.to(device))), logits.to(device)
            divergence = kl(answers, beliefs, 1.0).double() * len(images)
            sums += torch.stack([divergence, (answers.argmax(1) == beliefs.argmax(1)).sum()])
    return sums
