"""Attention transfer: what a student's blocks look at should be what its teacher's look at."""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..core.errors import ParamsError
from .features import Blocks, Pair, outputs, pairs_of, resized
from .term import BoundTerm, OnLogits, Seen, TermBlock

__all__ = ["Term", "attention"]


class Term(TermBlock):
    """`weight` (beta) times the sum of `attention` over pairs of blocks."""

    looks_inside: ClassVar[bool] = True

    blocks: Blocks

    def bind(
        self,
        student: nn.Module,
        teacher: nn.Module,
        shape: tuple[int, int, int],
        rng: torch.Generator,  # noqa: ARG002 - nothing here is trained
    ) -> BoundTerm:
        """As in `TermBlock`; every block must put out feature maps [N, C, H, W]."""
        pairs = pairs_of(self.blocks, student, teacher)
        for net, names in ((student, [p.student for p in pairs]), (teacher, [p.teacher for p in pairs])):
            for name, output in outputs(net, names, shape).items():
                if output.dim() != 4:
                    raise ParamsError(
                        f"blocks: {name!r} puts out {list(output.shape)}, attention needs feature maps [N, C, H, W]; "
                        "name pairs of blocks that have them"
                    )
        return _Bound(self.weight, pairs)


class _Bound(BoundTerm):
    def __init__(self, weight: float, pairs: list[Pair]) -> None:
        super().__init__()
        self.weight, self.pairs = weight, pairs
        self.student_blocks = tuple(pair.student for pair in pairs)
        self.teacher_blocks = tuple(pair.teacher for pair in pairs)

    def forward(self, seen: Seen, on_logits: OnLogits) -> Tensor:  # noqa: ARG002
        distances = [attention(seen.student_maps[ours], seen.teacher_maps[theirs]) for theirs, ours in self.pairs]
        return self.weight * torch.stack(distances).sum()


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
