"""Real data, for the demonstration teacher, evaluation and reference rows only; all of it optional."""

from typing import Any, Literal

from pipeline.core.params import Block, build_one_of
from pipeline.datasets import digits, folder, vision
from pipeline.datasets.digits import Digits
from pipeline.datasets.folder import Folder
from pipeline.datasets.labelled import Labelled
from pipeline.datasets.vision import Torchvision

__all__ = ["DataBlock", "Digits", "Folder", "Labelled", "NoData", "Torchvision", "load", "parse"]


class NoData(Block):
    """There is no real data: nothing that needs it can be given."""

    source: Literal["none"]


DataBlock = Digits | Torchvision | Folder | NoData

_BLOCKS: dict[str, type[DataBlock]] = {"digits": Digits, "torchvision": Torchvision, "folder": Folder, "none": NoData}


def parse(block: Any, key: str = "data") -> DataBlock:
    """Validate a data block; its `source` says which fields it has.

    Args:
        block: plain data, as read from the parameter file.
        key: the block's full key, for messages.

    Raises:
        ParamsError: one line per wrong key.
    """
    return build_one_of(_BLOCKS, block, key)


def load(params: DataBlock, split: Literal["train", "test"]) -> Labelled | None:
    """Read one split into memory, resized and with the channels the block asks for.

    Returns:
        The split, or None where the block says that there is no data.

    Raises:
        DataError: files are missing, or are not what the block says.
    """
    match params:
        case Digits():
            return digits.load(params, split)
        case Torchvision():
            return vision.load(params, split)
        case Folder():
            return folder.load(params, split)
        case NoData():
            return None
