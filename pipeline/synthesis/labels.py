"""Which label each image is steered towards: balanced assignments and Dirichlet targets."""

import numpy as np
import torch
from torch import Tensor

from pipeline.core.rng import numpy_generator

__all__ = ["balanced", "class_similarity", "concentrations", "dirichlet_targets", "one_hot"]


def balanced(count: int, groups: int, rng: torch.Generator) -> Tensor:
    """Group indices [count], each group equally often; what does not divide goes to distinct random groups."""
    rounds, rest = divmod(count, groups)
    tail = torch.randperm(groups, generator=rng)[:rest]
    return torch.cat([torch.arange(groups).repeat(rounds), tail])


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """[N] class indices to [N, K] float32 distributions."""
    return torch.nn.functional.one_hot(labels, classes).float()


def class_similarity(weight: Tensor) -> Tensor:
    """Class-similarity matrix of the last layer, [K, K] float64: cosines between its rows.

    C(i, j) = w_i . w_j / (|w_i| |w_j|), Nayak et al., "Zero-Shot Knowledge Distillation in Deep Networks" (ICML
    2019), section 3.2.1.

    Args:
        weight: [K, d], row k feeding class k's logit.
    """
    rows = torch.nn.functional.normalize(weight.detach().double().cpu(), dim=1)
    return rows @ rows.T


def concentrations(similarity: Tensor, scale: float, floor: float) -> Tensor:
    """Dirichlet concentrations, [K, K] float64: row k for images of class k.

    alpha_k = scale * minmax(C_k) (ZSKD, section 3.2.2): each row of the similarity matrix is mapped to [0, 1] on its
    own, then multiplied by beta. The released code maps the row once more after the multiplication, which cancels
    beta; here every beta takes effect.

    Args:
        similarity: [K, K] from `class_similarity`.
        scale: beta; smaller is peakier.
        floor: added to every entry, because a Dirichlet needs positive parameters and each row has one exact zero.
    """
    low = similarity.amin(dim=1, keepdim=True)
    high = similarity.amax(dim=1, keepdim=True)
    return scale * (similarity - low) / (high - low).clamp_min(torch.finfo(torch.float64).tiny) + floor


def dirichlet_targets(alphas: Tensor, rng: torch.Generator) -> Tensor:
    """One draw per row: [N, K] concentrations to [N, K] float32 distributions.

    Drawn by numpy in float64, which stays exact where concentrations are so small that a float32 gamma underflows.
    """
    draws = numpy_generator(rng)
    rows = np.stack([draws.dirichlet(row) for row in alphas.double().numpy()])
    return torch.from_numpy(rows).float()
