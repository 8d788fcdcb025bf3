"""A user's Python file as an architecture: the bytes that run are the bytes that were consented to, and are kept."""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from pipeline import nets
from pipeline.core.errors import TeacherError
from pipeline.core.files import sha256_bytes

__all__ = ["KEPT_NAME", "Built", "build"]

KEPT_NAME = "net.py"  # beside the weights, in the teacher's folder
_MARK = "python:"


class Built(NamedTuple):
    """A network, and how to build it again."""

    net: nn.Module
    arch: str  # with a user's file: `python:net.py:CALLABLE`
    code: bytes | None  # that file's content


def build(
    arch: str,
    classes: int,
    channels: int,
    size: int,
    trust: tuple[str, ...],
    *,
    folder: Path = Path(),
    rng: torch.Generator | None = None,
) -> Built:
    """Build an architecture; the code of a `python:PATH:CALLABLE` is read once, and only those bytes may run.

    Args:
        arch: as in `nets.build`.
        classes: number of logits.
        channels: of the images.
        size: height and width of the images, in pixels.
        trust: sha256 of user files whose code may run.
        folder: what a user file's relative path starts from.
        rng: where initial weights are drawn from, when they matter.

    Raises:
        TeacherError: the file is missing, or its sha256 is not in `trust`.
    """
    if not arch.startswith(_MARK):
        return Built(nets.build(arch, classes, channels, size, trust=trust, rng=rng), arch, None)
    name, _, attribute = arch.removeprefix(_MARK).rpartition(":")
    path = folder / Path(name).expanduser()
    if not path.is_file():
        raise TeacherError(
            f"{path}: no such Python file; expected the architecture as python:PATH:CALLABLE, not {arch}"
        )
    code = path.read_bytes()
    # Narrowed to this content: should the file change before the builder reads it, the builder refuses it.
    consent = tuple(digest for digest in trust if digest.lower() == sha256_bytes(code))
    net = nets.build(f"{_MARK}{path}:{attribute}", classes, channels, size, trust=consent, rng=rng)
    return Built(net, f"{_MARK}{KEPT_NAME}:{attribute}", code)
