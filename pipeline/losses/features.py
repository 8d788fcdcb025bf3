"""What terms between blocks share: pairs of names, the shapes of what blocks put out, maps of one size."""

from collections.abc import Iterable
from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from ..core.errors import ParamsError
from ..nets.probe import answer, capture, points

__all__ = ["Blocks", "Pair", "as_maps", "outputs", "pairs_of", "resized"]

# Pairs of names, the teacher's block first; auto: both networks' blocks, paired from the last back.
Blocks = Literal["auto"] | Annotated[tuple[tuple[str, str], ...], Field(min_length=1)]


class Pair(NamedTuple):
    """A block of the teacher and the student's that is to resemble it."""

    teacher: str
    student: str


def pairs_of(blocks: Blocks, student: nn.Module, teacher: nn.Module) -> list[Pair]:
    """The pairs that a block names.

    Raises:
        ParamsError: `auto`, and one of the networks has no blocks that could be found.
    """
    if blocks != "auto":
        return [Pair(*pair) for pair in blocks]
    theirs, ours = points(teacher).blocks, points(student).blocks
    pairs = [Pair(*pair) for pair in zip(theirs[::-1], ours[::-1], strict=False)][::-1]
    if not pairs:
        raise ParamsError("blocks: auto: the student or the teacher has no blocks that could be found; name pairs")
    return pairs


def outputs(net: nn.Module, names: Iterable[str], shape: tuple[int, int, int]) -> dict[str, Tensor]:
    """What blocks put out for one blank image of `shape` (C, H, W), in evaluation mode, by name.

    Raises:
        TeacherError: the network has no submodule of a name.
        ParamsError: a block puts out nothing, or no tensor [N, ...].
    """
    wanted = list(dict.fromkeys(names))
    device = next((weights.device for weights in net.parameters()), None)
    with capture(net, wanted) as seen:
        answer(net, torch.zeros(1, *shape, device=device))
    for name in wanted:
        output: object = seen.get(name)  # a foreign network's block may put out anything
        if not isinstance(output, Tensor) or output.dim() < 2:
            found = "is never run by itself" if output is None else "puts out no tensor [N, ...]"
            raise ParamsError(f"blocks: {name!r} {found}; name pairs of other blocks")
    return dict(seen)


def as_maps(output: Tensor) -> Tensor:
    """[N, C, H, W] as it is, anything else as maps of one position."""
    return output if output.dim() == 4 else output.flatten(1)[..., None, None]


def resized(maps: Tensor, height: int, width: int) -> Tensor:
    """[B, C, H, W] averaged down, or interpolated up (bilinear), to this height and width."""
    if maps.shape[-2:] == (height, width):
        return maps
    if maps.shape[-2] >= height and maps.shape[-1] >= width:
        return functional.adaptive_avg_pool2d(maps, (height, width))
    return functional.interpolate(maps, (height, width), mode="bilinear", align_corners=False)
