"""Activation boundaries: a student's neurons should be on the teacher's side of zero."""

from typing import ClassVar, cast

import torch
from pydantic import PositiveFloat
from torch import Tensor, nn
from torch.nn import functional

from .features import Blocks, Pair, as_maps, outputs, pairs_of, resized
from .term import BoundTerm, OnLogits, Seen, TermBlock

__all__ = ["Term", "activation_boundary"]


class Term(TermBlock):
    """`activation_boundary` summed over pairs of blocks: `weight` times the last, halved from each to the one before.

    A connector, 1x1 convolution and BatchNorm, brings a student's block to the teacher's number of channels (Heo et
    al. 2019, section 3.2). It learns together with the student and is thrown away afterwards.

    Departure: Heo et al. (2019) match boundaries alone and first, to initialise a student; here the term stands beside
    the loss on the logits from the first step to the last.
    """

    looks_inside: ClassVar[bool] = True

    margin: PositiveFloat  # m; 1 in Heo et al. (2019)
    blocks: Blocks

    def bind(
        self, student: nn.Module, teacher: nn.Module, shape: tuple[int, int, int], rng: torch.Generator
    ) -> BoundTerm:
        """As in `TermBlock`; connectors are made on the CPU."""
        pairs = pairs_of(self.blocks, student, teacher)
        ours = outputs(student, [pair.student for pair in pairs], shape)
        theirs = outputs(teacher, [pair.teacher for pair in pairs], shape)
        widths = [(as_maps(ours[p.student]).shape[1], as_maps(theirs[p.teacher]).shape[1]) for p in pairs]
        return _Bound(self, pairs, [_connector(inputs, outputs, rng) for inputs, outputs in widths])


class _Bound(BoundTerm):
    def __init__(self, block: Term, pairs: list[Pair], connectors: list[nn.Sequential]) -> None:
        super().__init__()
        self.block, self.pairs, self.connectors = block, pairs, nn.ModuleList(connectors)
        self.student_blocks = tuple(pair.student for pair in pairs)
        self.teacher_blocks = tuple(pair.teacher for pair in pairs)

    def forward(self, seen: Seen, on_logits: OnLogits) -> Tensor:  # noqa: ARG002
        losses: list[Tensor] = []
        for place, (pair, connector) in enumerate(zip(self.pairs, self.connectors, strict=True)):
            wanted = as_maps(seen.teacher_maps[pair.teacher])
            response = resized(connector(as_maps(seen.student_maps[pair.student])), *wanted.shape[-2:])
            weight = self.block.weight / 2 ** (len(self.pairs) - 1 - place)
            losses.append(weight * activation_boundary(response, wanted, self.block.margin))
        return torch.stack(losses).sum()


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


def _connector(inputs: int, outputs: int, rng: torch.Generator) -> nn.Sequential:
    conv = cast(nn.Conv2d, nn.utils.skip_init(nn.Conv2d, inputs, outputs, 1, bias=False))  # no global randomness
    nn.init.kaiming_normal_(conv.weight, nonlinearity="linear", generator=rng)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))
