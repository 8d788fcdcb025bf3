"""Training a teacher on real data, with the loop that trains students."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..classifier import Card, Normalise
from ..core.checkpoint import Checkpoint
from ..core.device import Compute
from ..optimise.network import Minibatch, Pool, Recipe, fit
from ..real import Labelled

__all__ = ["train"]


def train(
    net: nn.Module, card: Card, recipe: Recipe, data: Labelled, compute: Compute, seed: int, checkpoint: Checkpoint
) -> None:
    """Train in place with cross-entropy on hard labels; the weights after the last epoch are kept, not the best ones.

    A run that was killed goes on from its last whole epoch.

    Args:
        net: with its initial weights; on the CPU, before and afterwards.
        card: its name and normalisation.
        recipe: how it learns.
        data: the training split.
        compute: where and how to run.
        seed: of order and augmentation.
        checkpoint: of this training alone; the caller keeps others apart, and clears it once the teacher is saved.

    Raises:
        TrainingError: the loss is not finite.
        WorkError: the checkpoint cannot be read or written.
    """
    pool = Pool(data.images, {"label": data.labels}, compute.torch_device())
    whole = nn.Sequential(Normalise(card.mean, card.std), net)
    fit(whole, pool, _cross_entropy, recipe, compute, seed, checkpoint, what=f"training teacher {card.arch}")
    net.to("cpu")


def _cross_entropy(logits: Tensor, view: Minibatch) -> dict[str, Tensor]:
    """Cross-entropy with the labels, mixed as the images were; in float32 under autocast too."""
    targets = functional.one_hot(view.rows["label"], logits.shape[1]).to(torch.float32)
    return {"loss": functional.cross_entropy(logits.float(), view.mixed(targets))}
