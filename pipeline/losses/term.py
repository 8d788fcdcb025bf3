"""What every term beside a student's loss on logits follows."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from pydantic import PositiveFloat
from torch import Tensor, nn

from ..core.params import Block

__all__ = ["BoundTerm", "OnLogits", "Seen", "TermBlock"]

OnLogits = Callable[[Tensor, Tensor], Tensor]  # logits [B, K] of student and target to a scalar


@dataclass(frozen=True, slots=True)
class Seen:
    """What a loss may look at: one batch, and what both networks made of it."""

    images: Tensor  # [B, C, H, W] as the student saw them
    student: Tensor  # [B, K] its logits
    target: Tensor  # [B, K] the teacher's logits, or probabilities where labels are hard
    forward: Callable[[Tensor], Tensor]  # the student, asked about other images
    ask: Callable[[Tensor], Tensor] | None  # the teacher, without a graph; None where there is none
    rng: Callable[[], torch.Generator]  # this step's own random numbers, made where they are needed
    student_maps: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])  # what blocks put out, by name
    teacher_maps: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])


class BoundTerm(nn.Module):
    """A term, bound to two networks. Its own parameters learn with the student and are thrown away afterwards."""

    student_blocks: tuple[str, ...] = ()  # whose outputs it wants to see
    teacher_blocks: tuple[str, ...] = ()

    def forward(self, seen: Seen, on_logits: OnLogits) -> Tensor:
        """The weighted term, a scalar; `on_logits` is the loss that it stands beside."""
        raise NotImplementedError


class TermBlock(Block):
    """A term's block in params.yaml: a file's `Term` adds its fields, and `bind`."""

    looks_inside: ClassVar[bool] = False  # whether it compares what blocks of student and teacher put out

    weight: PositiveFloat

    @property
    def asks_teacher(self) -> bool:
        """Whether the teacher must be at hand."""
        return self.looks_inside

    def bind(
        self, student: nn.Module, teacher: nn.Module, shape: tuple[int, int, int], rng: torch.Generator
    ) -> BoundTerm:
        """Bind the term to two networks.

        Args:
            student: without its normalisation, on any device.
            teacher: likewise; where labels are stored and the term does not look inside, the student stands in for it.
            shape: (C, H, W) of an image, with which both networks may be asked for the shapes of their blocks.
            rng: where initial weights of the term's own are drawn from.

        Raises:
            TeacherError: a network has no submodule of a name that is given.
            ParamsError: a block puts out nothing that the term can be computed from.
        """
        raise NotImplementedError
