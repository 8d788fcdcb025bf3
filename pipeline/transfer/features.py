"""Terms between blocks of a student and its teacher, and the trainable connectors that some of them need."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Annotated, Literal, NamedTuple, cast

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from pipeline.core.errors import ParamsError
from pipeline.core.params import Block
from pipeline.nets import features, inspection
from pipeline.transfer.losses import activation_boundary, attention, resized

__all__ = ["Attention", "Boundary", "FeatureTerms"]

_Pairs = Annotated[tuple[tuple[str, str], ...], Field(min_length=1)]
Blocks = Literal["auto"] | _Pairs


class Attention(Block):
    """Attention transfer, see `losses.attention`."""

    weight: PositiveFloat  # beta, of the sum over the pairs
    blocks: Blocks  # pairs of names, the teacher's block first; auto: both networks' blocks, paired from the last back


class Boundary(Block):
    """Matching of activation boundaries, see `losses.activation_boundary`.

    Departure: Heo et al. (2019) match boundaries alone and first, to initialise a student; here the term stands beside
    the loss on the logits from the first step to the last.
    """

    weight: PositiveFloat  # of the last pair; halved from each pair to the one before it, as Heo et al. (2019)
    margin: PositiveFloat  # m; 1 in Heo et al. (2019)
    blocks: Blocks


class _Pair(NamedTuple):
    teacher: str
    student: str


class FeatureTerms(nn.Module):
    """The weighted sum of terms between two networks' blocks; its parameters are the connectors.

    A connector, 1x1 convolution and BatchNorm, brings a student's block to the teacher's number of channels (Heo et
    al. 2019, section 3.2). It learns together with the student and is thrown away afterwards.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        shape: tuple[int, int, int],
        attention: Attention | None,
        boundary: Boundary | None,
        rng: torch.Generator,
    ) -> None:
        """Find the blocks and make the connectors, on the CPU.

        Args:
            student: the network whose blocks are named, without its normalisation, on any device.
            teacher: likewise.
            shape: (C, H, W) of an image, with which both networks are asked once for the shapes of their blocks.
            attention: or None.
            boundary: or None.
            rng: where the connectors' weights are drawn from.

        Raises:
            TeacherError: a network has no submodule of a name that is given.
            ParamsError: a block puts out nothing, or nothing that the term can be computed from.
        """
        super().__init__()
        self.attention, self.boundary = attention, boundary
        self._nets = (student, teacher)  # a tuple, so that their parameters are not this module's
        self._attended = [] if attention is None else _pairs(attention.blocks, student, teacher)
        self._bounded = [] if boundary is None else _pairs(boundary.blocks, student, teacher)
        self._seen: tuple[dict[str, Tensor], dict[str, Tensor]] = ({}, {})
        ours, theirs = self._probe(shape)
        for pair in self._attended:
            _require_maps(pair.student, ours)
            _require_maps(pair.teacher, theirs)
        widths = [(_width(pair.student, ours), _width(pair.teacher, theirs)) for pair in self._bounded]
        self.connectors = nn.ModuleList(_connector(inputs, outputs, rng) for inputs, outputs in widths)

    @contextmanager
    def watching(self) -> Generator[None]:
        """Look at both networks' forward passes while the block lasts; the last pass of each is what counts."""
        student, teacher = self._nets
        pairs = (*self._attended, *self._bounded)
        with (
            features.capture(student, list(dict.fromkeys(pair.student for pair in pairs))) as ours,
            features.capture(teacher, list(dict.fromkeys(pair.teacher for pair in pairs))) as theirs,
        ):
            self._seen = (ours, theirs)
            try:
                yield
            finally:
                self._seen = ({}, {})

    def forward(self, *, reach_teacher: bool = False) -> Tensor:
        """The sum of the weighted terms over the networks' last passes, a scalar; 0 when there is no term.

        Args:
            reach_teacher: let gradients flow through the teacher's maps too, to what made its images.
        """
        terms = tuple(self.terms(reach_teacher=reach_teacher).values())
        return torch.stack(terms).sum() if terms else torch.zeros(())

    def terms(self, *, reach_teacher: bool = False) -> dict[str, Tensor]:
        """What `forward` adds up, by name: "attention" and "activation_boundary", each with its weight."""
        ours, theirs = self._seen
        if not reach_teacher:
            theirs = {name: maps.detach() for name, maps in theirs.items()}
        terms: dict[str, Tensor] = {}
        if self.attention is not None:
            distances = [attention(ours[pair.student], theirs[pair.teacher]) for pair in self._attended]
            terms["attention"] = self.attention.weight * torch.stack(distances).sum()
        if self.boundary is not None:
            terms["activation_boundary"] = torch.stack(self._boundaries(self.boundary, ours, theirs)).sum()
        return terms

    def _boundaries(self, block: Boundary, ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> list[Tensor]:
        losses: list[Tensor] = []
        for place, (pair, connector) in enumerate(zip(self._bounded, self.connectors, strict=True)):
            wanted = _maps(theirs[pair.teacher])
            response = resized(connector(_maps(ours[pair.student])), *wanted.shape[-2:])
            weight = block.weight / 2 ** (len(self._bounded) - 1 - place)
            losses.append(weight * activation_boundary(response, wanted, block.margin))
        return losses

    def _probe(self, shape: tuple[int, int, int]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        with self.watching():
            for net in self._nets:
                device = next((weights.device for weights in net.parameters()), None)
                inspection.probe(net, torch.zeros(1, *shape, device=device))
            ours, theirs = (dict(seen) for seen in self._seen)
        return ours, theirs


def _pairs(blocks: Blocks, student: nn.Module, teacher: nn.Module) -> list[_Pair]:
    if blocks != "auto":
        return [_Pair(*pair) for pair in blocks]
    theirs, ours = inspection.points(teacher).blocks, inspection.points(student).blocks
    pairs = [_Pair(*pair) for pair in zip(theirs[::-1], ours[::-1], strict=False)][::-1]
    if not pairs:
        raise ParamsError("blocks: auto: the student or the teacher has no blocks that could be found; name pairs")
    return pairs


def _output(name: str, seen: dict[str, Tensor]) -> Tensor:
    """What a block put out when the networks were asked for shapes."""
    output: object = seen.get(name)  # a foreign network's block may put out anything
    if not isinstance(output, Tensor) or output.dim() < 2:
        found = "is never run by itself" if output is None else "puts out no tensor [N, ...]"
        raise ParamsError(f"blocks: {name!r} {found}; name pairs of other blocks")
    return output


def _require_maps(name: str, seen: dict[str, Tensor]) -> None:
    shape = list(_output(name, seen).shape)
    if len(shape) != 4:
        raise ParamsError(
            f"blocks: {name!r} puts out {shape}, attention needs feature maps [N, C, H, W]; name pairs of blocks that "
            "have them"
        )


def _width(name: str, seen: dict[str, Tensor]) -> int:
    return _maps(_output(name, seen)).shape[1]


def _maps(output: Tensor) -> Tensor:
    """[N, C, H, W] as it is, anything else as maps of one position."""
    return output if output.dim() == 4 else output.flatten(1)[..., None, None]


def _connector(inputs: int, outputs: int, rng: torch.Generator) -> nn.Sequential:
    conv = cast(nn.Conv2d, nn.utils.skip_init(nn.Conv2d, inputs, outputs, 1, bias=False))  # no global randomness
    nn.init.kaiming_normal_(conv.weight, nonlinearity="linear", generator=rng)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))
