"""How closely a student follows its teacher on held-out synthetic images. No real data is ever looked at here."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from pipeline import transfer
from pipeline.core.device import Compute
from pipeline.distill.feed import fits
from pipeline.shards.reader import Dataset, Samples
from pipeline.training import Row, to_unit

__all__ = ["holdout_of"]

_CHUNK = 512  # images per forward pass: speed and memory only


def holdout_of(dataset: Dataset, memory_mb: int, compute: Compute) -> Callable[[nn.Module], Row] | None:
    """A function that measures a student on the dataset's holdout split, in float32; None where it has none.

    It gives `holdout_kl`, KL(teacher || student) at temperature 1 in nats, and `holdout_agreement`, the share of
    images on which both name the same class; both against the stored logits.

    Raises:
        ShardError: a shard is damaged.
    """
    images = dataset.count("holdout")
    if images == 0:
        return None
    kept = [dataset.load("holdout")] if fits(dataset, memory_mb) else None

    def measure(student: nn.Module) -> Row:
        kl, agreed = _sums(student, kept or dataset.shards("holdout"), compute)
        # Rounding may bring the KL of equal distributions a hair below zero.
        return {"holdout_kl": max(0.0, float(kl) / images), "holdout_agreement": float(agreed) / images}

    return measure


@torch.no_grad()
def _sums(student: nn.Module, parts: Iterable[Samples], compute: Compute) -> Tensor:
    device = compute.torch_device()
    sums = torch.zeros(2, dtype=torch.float64, device=device)
    for part in parts:
        for start in range(0, len(part.logits), _CHUNK):
            images = to_unit(part.images[start : start + _CHUNK].to(device))
            answers, beliefs = student(images), part.logits[start : start + _CHUNK].to(device)
            divergence = transfer.kl(answers, beliefs, 1.0).double() * len(images)
            sums += torch.stack([divergence, (answers.argmax(1) == beliefs.argmax(1)).sum()])
    return sums
