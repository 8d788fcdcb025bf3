"""Real data, for the demonstration teacher, evaluation and reference rows only; all of it optional.

One file for each `source`; the file's name is the registry. It has a class `Data`, a `DataBlock` whose fields are its
params block.
"""

import importlib
import pkgutil
from collections.abc import Iterable, Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..core.errors import DataError
from ..core.files import sha256_bytes
from ..core.images import Side
from ..core.params import Block, build_one_of

__all__ = ["DataBlock", "Labelled", "NoData", "Samples", "Split", "collect", "load", "parse"]

Split = Literal["train", "test"]
Samples = Iterator[tuple[Image.Image, int]]  # images of any size and 8-bit mode, with their labels

_EIGHT_BIT_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"}


class NoData(Block):
    """There is no real data: nothing that needs it can be given."""

    source: Literal["none"]


class DataBlock(Block):
    """A set of real images, resized and with the channels that are asked for."""

    source: str
    size: Side
    channels: Literal[1, 3]

    @property
    def name_shown(self) -> str:
        """What messages call the set."""
        return self.source

    def read(self, split: Split) -> tuple[Samples, tuple[str, ...] | None]:
        """The samples of a split as they come, and the names of the classes where the set has some.

        Raises:
            DataError: files are missing, or are not what the block says.
        """
        raise NotImplementedError


class Labelled(NamedTuple):
    """One split of a classification set."""

    images: Tensor  # uint8 [N, C, H, W]
    labels: Tensor  # int64 [N], each in [0, len(classes))
    classes: tuple[str, ...]

    def digest(self) -> str:
        """sha256 over images, labels and class names, in their order."""
        parts = [self.images.numpy().tobytes(), self.labels.numpy().tobytes(), "\n".join(self.classes).encode()]
        return sha256_bytes("".join(map(sha256_bytes, parts)).encode())


def parse(block: Any, key: str = "data") -> DataBlock | NoData:
    """Validate a data block; its `source` says which fields it has.

    Args:
        block: plain data, as read from the parameter file.
        key: the block's full key, for messages.

    Raises:
        ParamsError: one line per wrong key.
    """
    files = sorted(module.name for module in pkgutil.iter_modules(__path__))
    models: dict[str, type[Block]] = {name: importlib.import_module(f"{__name__}.{name}").Data for name in files}
    found = build_one_of(models | {"none": NoData}, block, key)
    assert isinstance(found, DataBlock | NoData)
    return found


def load(params: DataBlock | NoData, split: Split) -> Labelled | None:
    """Read one split into memory, resized and with the channels the block asks for.

    Returns:
        The split, or None where the block says that there is no data.

    Raises:
        DataError: files are missing, or are not what the block says.
    """
    if isinstance(params, NoData):
        return None
    samples, classes = params.read(split)
    return collect(samples, classes, params.size, params.channels, f"{params.name_shown} ({split})")


def collect(
    samples: Iterable[tuple[Image.Image, int]], classes: tuple[str, ...] | None, size: int, channels: int, where: str
) -> Labelled:
    """Convert and stack samples.

    Args:
        samples: images of any size and 8-bit mode, with their labels.
        classes: names by label, or None to number them up to the greatest label.
        size: height and width of the result. An image that is not square is cut to the central square first.
        channels: 1 (luminance, ITU-R 601) or 3 (RGB).
        where: names the set in messages.

    Raises:
        DataError: no sample at all, a label outside the classes, or pixels of more than 8 bits.
    """
    pixels: list[Tensor] = []
    labels: list[int] = []
    for image, label in samples:
        if type(label) is not int:
            raise DataError(f"{where}: sample {len(labels)} has target {label!r}, expected a class number")
        pixels.append(_pixels(image, size, channels, f"{where}: sample {len(labels)}"))
        labels.append(label)
    if not labels:
        raise DataError(f"{where}: no images there")
    names = classes or tuple(str(label) for label in range(max(labels) + 1))
    if not 0 <= min(labels) <= max(labels) < len(names):
        raise DataError(f"{where}: labels run from {min(labels)} to {max(labels)}, but there are {len(names)} classes")
    return Labelled(torch.stack(pixels), torch.tensor(labels, dtype=torch.int64), names)


def _pixels(image: Image.Image, size: int, channels: int, where: str) -> Tensor:
    """One image as uint8 [C, H, W]: convert, cut square, resize bilinearly (antialiased when it shrinks)."""
    if image.mode not in _EIGHT_BIT_MODES:
        raise DataError(f"{where}: image mode {image.mode} has more than 8 bits a channel; convert it to 8 bits")
    converted = image.convert("L" if channels == 1 else "RGB")
    if converted.size != (size, size):
        converted = ImageOps.fit(converted, (size, size), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(converted).reshape(size, size, channels)).permute(2, 0, 1).contiguous()
