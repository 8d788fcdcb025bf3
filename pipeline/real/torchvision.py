"""Any torchvision classification set by its class name."""

import contextlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from PIL import Image

from ..core.errors import DataError
from ..core.progress import track
from . import DataBlock, Samples, Split

__all__ = ["Data"]

# What torchvision's sets call the two splits, in the order in which to try them.
_SPLITS = {"train": ("train", "trainval"), "test": ("test", "val", "valid")}


class Data(DataBlock):
    """A set of `torchvision.datasets`, such as MNIST, KMNIST, CIFAR10, SVHN, STL10 or EMNIST:letters."""

    name: str  # the class; for sets with variants, class:variant
    root: str  # where the files are or go; relative to the current directory; ~ is expanded
    download: bool  # fetch what is missing

    @property
    def name_shown(self) -> str:
        """As in `DataBlock`."""
        return self.name

    def read(self, split: Split) -> tuple[Samples, tuple[str, ...] | None]:
        """As in `DataBlock`."""
        return _read(self, split)


def _read(params: Data, split: Split) -> tuple[Samples, tuple[str, ...] | None]:
    """Construct the set by name: its samples, and its classes where it names them.

    Raises:
        DataError: there is no such set, it has no train and test split, its files are missing or damaged, or its
            targets are not class numbers.
    """
    dataset = _construct(params, split)
    names = getattr(dataset, "classes", None)
    classes = tuple(map(str, cast(list[object], names))) if isinstance(names, (list, tuple)) else None
    return _samples(dataset, f"{params.name} ({split})"), classes


def _samples(dataset: Any, where: str) -> Iterator[tuple[Image.Image, int]]:
    for index in track(range(len(dataset)), f"reading {where}", unit="img"):
        image, label = dataset[index]
        if not isinstance(image, Image.Image):
            raise DataError(f"{where}: sample {index} is {type(image).__name__}; not an image classification set")
        yield image, label.item() if hasattr(label, "item") else label  # a number of numpy's or torch's


def _construct(params: Data, split: str) -> Any:
    name, _, variant = params.name.partition(":")
    kind = _find(name)
    accepted = inspect.signature(kind).parameters
    root = Path(params.root).expanduser()
    options: dict[str, Any] = {"root": str(root)}
    if "download" in accepted or variant:
        options["download"] = params.download
    try:
        if variant:  # EMNIST: `split` names the variant, `train` the split
            return kind(**options, split=variant, train=split == "train")
        if "train" in accepted:
            return kind(**options, train=split == "train")
        return _construct_split(kind, options, split)
    # A set's constructor raises whatever its author liked: RuntimeError, OSError, KeyError, UnpicklingError, ...
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        cure = f"set data.download: true, or put the files under {root}, or set data.source: none"
        raise DataError(f"data.name: {params.name} ({split}) cannot be read from {root} ({reason}); {cure}") from error


def _construct_split(kind: Any, options: dict[str, Any], split: str) -> Any:
    """For sets with a `split` argument: the first of its usual values that the set knows."""
    *others, last = _SPLITS[split]
    for value in others:
        # ValueError is torchvision's answer to a split that it does not know.
        with contextlib.suppress(ValueError):
            return kind(**options, split=value)
    return kind(**options, split=last)


def _find(name: str) -> Any:
    # Imported here: it takes seconds, and most runs read another set.
    import torchvision.datasets

    there = {key: getattr(torchvision.datasets, key) for key in torchvision.datasets.__all__}
    usable = {key: kind for key, kind in there.items() if _has_splits(kind)}
    if name not in usable:
        known = ", ".join(sorted(usable))
        raise DataError(f"data.name: {name!r}: not a torchvision set with a train and a test split; there are {known}")
    return usable[name]


def _has_splits(kind: Any) -> bool:
    accepted = inspect.signature(kind).parameters
    return "root" in accepted and ("train" in accepted or "split" in accepted)
