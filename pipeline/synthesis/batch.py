"""What a fitted method hands over: images, and the files that its training leaves."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

from pydantic import JsonValue
from torch import Tensor

__all__ = ["Attachment", "Batch"]


class Batch(NamedTuple):
    """What a source draws."""

    images: Tensor  # [N, C, H, W] float32 in [0, 1], not normalised
    targets: Tensor  # [N, K] float32, rows sum to 1: the label distribution each image was steered towards


class Attachment(NamedTuple):
    """A file that a fit leaves beside its dataset."""

    name: str  # file name, such as ``generator-03.safetensors``
    kind: Literal["generator", "proxy", "history"]
    facts: Mapping[str, JsonValue]  # for the manifest: a generator's block and iterations done; a proxy's "arch"
    content: bytes
