"""What is minimised: losses of logits, of images, of BatchNorm statistics, and the terms beside a student's loss.

A term is one file with a class `Term`; the file's name is the term's name in params.yaml, and it is found without
being listed anywhere. A student and a proxy student minimise the same thing: a loss on logits (`Logits`) and, beside
it, any `Terms`.
"""

import importlib
import pkgutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import torch
from pydantic import create_model
from torch import Tensor, nn

from ..core.params import Block
from ..nets.probe import capture
from .logits import Logits
from .term import BoundTerm, Seen, TermBlock

__all__ = ["TERMS", "Logits", "Loss", "Seen", "Terms"]


def _found() -> dict[str, type[TermBlock]]:
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    modules = {name: importlib.import_module(f"{__name__}.{name}") for name in names}
    return {name: module.Term for name, module in modules.items() if hasattr(module, "Term")}


TERMS = _found()  # every term's class by name


class _Terms(Block):
    """Terms by name; what is absent is off."""

    @property
    def given(self) -> dict[str, TermBlock]:
        """Those that are there, in the order of their names."""
        found = {name: cast(TermBlock | None, getattr(self, name)) for name in TERMS}
        return {name: term for name, term in found.items() if term is not None}

    @property
    def looks_inside(self) -> bool:
        """Whether one compares what blocks of student and teacher put out."""
        return any(term.looks_inside for term in self.given.values())

    @property
    def asks_teacher(self) -> bool:
        """Whether one needs the teacher at hand."""
        return any(term.asks_teacher for term in self.given.values())


if TYPE_CHECKING:
    Terms = _Terms
else:  # a field for each file
    Terms = create_model("Terms", __base__=_Terms, **{name: (block | None, None) for name, block in TERMS.items()})


class Loss(nn.Module):
    """The weighted sum of a loss on logits and terms beside it; its parameters are those of the terms."""

    def __init__(
        self,
        on_logits: Logits,
        terms: Terms,
        student: nn.Module,
        teacher: nn.Module | None,
        shape: tuple[int, int, int],
        rng: torch.Generator,
    ) -> None:
        """Bind the terms.

        Args:
            on_logits: the loss on logits.
            terms: beside it.
            student: the network that learns, without its normalisation, on any device.
            teacher: likewise, the network that it learns from; needed where `terms.looks_inside`.
            shape: (C, H, W) of an image.
            rng: where initial weights of terms are drawn from.

        Raises:
            TeacherError: a network has no block of a name that is given.
            ParamsError: a block that a term cannot be computed from.
        """
        super().__init__()
        self.on_logits, self._nets = on_logits, (student, teacher or student)  # a tuple: not this module's parameters
        self.terms = nn.ModuleDict({name: t.bind(*self._nets, shape, rng) for name, t in terms.given.items()})
        self._maps: tuple[dict[str, Tensor], dict[str, Tensor]] = ({}, {})

    @contextmanager
    def hooks(self) -> Iterator[None]:
        """Look at both networks' forward passes while the block lasts; the last pass of each is what counts."""
        bound = [cast(BoundTerm, term) for term in self.terms.values()]
        wanted = ([n for t in bound for n in t.student_blocks], [n for t in bound for n in t.teacher_blocks])
        with ExitStack() as stack:
            ours, theirs = (
                stack.enter_context(capture(net, list(dict.fromkeys(names))))
                for net, names in zip(self._nets, wanted, strict=True)
            )
            self._maps = (ours, theirs)
            try:
                yield
            finally:
                self._maps = ({}, {})

    def forward(self, seen: Seen) -> dict[str, Tensor]:
        """Named scalars: "loss", the sum, and where there are terms each summand, with its weight; inside `hooks`."""
        main = self.on_logits(seen.student, seen.target)
        if not self.terms:
            return {"loss": main}
        summands = {self.on_logits.name: main, **self.beside(seen)}
        return {"loss": torch.stack(tuple(summands.values())).sum(), **summands}

    def beside(self, seen: Seen, *, reach_teacher: bool = False) -> dict[str, Tensor]:
        """The terms alone.

        Args:
            seen: the batch.
            reach_teacher: those that look inside, with gradients through the teacher's maps too: what a generator that
                made the images can move.
        """
        # Copies: a term that asks a network about other images replaces what the hooks hold.
        ours, theirs = dict(self._maps[0]), dict(self._maps[1])
        if not reach_teacher:
            theirs = {name: maps.detach() for name, maps in theirs.items()}
        seen = replace(seen, student_maps=ours, teacher_maps=theirs)
        terms = {name: cast(BoundTerm, term) for name, term in self.terms.items()}
        wanted = {name: term for name, term in terms.items() if term.teacher_blocks or not reach_teacher}
        return {name: term(seen, self.on_logits) for name, term in wanted.items()}
