"""The reference: real training images through the same writer, labelled not data-free."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from .. import real
from ..core.errors import DataError
from ..core.images import from_uint8
from ..optimise.pixels import one_hot
from ..optimise.source import BaseMethod, Batch, Needs, Numbered, Run

__all__ = ["Method"]


class Method(BaseMethod):
    """Real training images, each at most once, in one random order; the target is the true label.

    Not data-free: it shows what the same student reaches when the data had not been lost.
    """

    needs: ClassVar[Needs] = Needs(real=True)

    data: dict[str, Any]  # the `data` block

    def fit(self, run: Run) -> Numbered:
        """Load the training set and choose its order.

        Raises:
            DataError: there is no real data, or it does not fit the teacher.
        """
        train = real.load(real.parse(self.data, "data"), "train")
        if train is None:
            raise DataError(
                "methods.real needs real images, but data.source is none; take `real` out of matrix.methods"
            )
        card = run.teacher.card
        expected, found = (card.channels, card.size, card.size), tuple(train.images.shape[1:])
        if found != expected or len(train.classes) != len(card.classes):
            raise DataError(
                f"data: {found} images of {len(train.classes)} classes, but the teacher takes {expected} images of "
                f"{len(card.classes)}; set data.size and data.channels as the teacher needs"
            )
        return _Stock(train, torch.randperm(len(train.images), generator=run.rng))


@dataclass(frozen=True)
class _Stock:
    train: real.Labelled
    order: torch.Tensor  # [N] a permutation of the training set

    def draw_numbered(self, count: int, rng: torch.Generator, number: int) -> Batch:  # noqa: ARG002
        """Training shards from the front of the order, held-out ones from its end."""
        start = number * count if number >= 0 else len(self.order) + number * count
        if start < 0 or start + count > len(self.order):
            raise DataError(
                f"methods.real.count: shard {number} of {count} images is past the end of the {len(self.order)} real "
                "training images; lower methods.real.count or shards.holdout"
            )
        chosen = self.order[start : start + count]
        labels = self.train.labels[chosen]
        return Batch(from_uint8(self.train.images[chosen]), one_hot(labels, len(self.train.classes)))
