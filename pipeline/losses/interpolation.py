"""Mixup, and virtual interpolation: a further loss on mixtures of the images of a batch."""

from typing import Literal

import torch
from pydantic import PositiveFloat
from torch import Tensor, nn

from ..core.rng import numpy_stream
from .term import BoundTerm, OnLogits, Seen, TermBlock

__all__ = ["Term", "beta_shares", "mix"]


class Term(TermBlock):
    """Beside the loss on a batch, `weight` times the same loss on the batch mixed with itself.

    A reconstruction of the virtual interpolation of Qu, Wang & Xiao (ICASSP 2021), of which neither code nor the text
    of the method is public: what is mixed with what, the weight and the distribution of lambda are this project's.
    """

    alpha: PositiveFloat  # of Beta(alpha, alpha), from which each mixture's lambda is drawn
    labels: Literal["interpolated", "teacher"]  # of a mixture: its two labels, mixed alike, or what the teacher says

    @property
    def asks_teacher(self) -> bool:
        """Whether the teacher must be at hand."""
        return self.labels == "teacher"

    def bind(
        self,
        student: nn.Module,  # noqa: ARG002 - nothing here is trained
        teacher: nn.Module,  # noqa: ARG002
        shape: tuple[int, int, int],  # noqa: ARG002
        rng: torch.Generator,  # noqa: ARG002
    ) -> BoundTerm:
        """As in `TermBlock`."""
        return _Bound(self)


class _Bound(BoundTerm):
    def __init__(self, block: Term) -> None:
        super().__init__()
        self.block = block

    def forward(self, seen: Seen, on_logits: OnLogits) -> Tensor:
        """Mixtures are seen in passes of their own, so that BatchNorm normalises them by their own statistics."""
        lam = beta_shares(self.block.alpha, (len(seen.images),), seen.rng()).to(seen.images.device)
        mixed = mix(seen.images, lam)
        if self.block.labels == "interpolated":
            target = mix(seen.target, lam)
        else:
            assert seen.ask is not None
            target = seen.ask(mixed)
        return self.block.weight * on_logits(seen.forward(mixed), target)


def beta_shares(alpha: float, shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
    """Lambdas of this shape, each drawn from Beta(alpha, alpha), float32 in [0, 1], on the CPU."""
    return torch.from_numpy(numpy_stream(rng).beta(alpha, alpha, shape)).float()


def mix(values: Tensor, lam: Tensor) -> Tensor:
    """Mixup of a batch with itself moved on by one: lambda_i v_i + (1 - lambda_i) v_(i-1).

    Zhang et al. (2018), eq. 1: the same lambdas for inputs and labels. Batches are in random order, so that the
    neighbour is a random partner. Departure: a lambda per sample, not one per batch.

    Args:
        values: [B, ...] images, one-hot labels or logits. Mixed logits are the virtual label of a mixed image when no
            teacher is at hand to label it.
        lam: [B] in [0, 1], drawn from Beta(alpha, alpha).
    """
    own = lam.view(-1, *[1] * (values.dim() - 1)).to(values.dtype)
    return values.roll(1, 0).lerp(values, own)
