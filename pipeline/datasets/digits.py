"""The embedded default: scikit-learn's digits, 1797 real scans of handwritten digits at 8x8, no download."""

import hashlib
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import PositiveInt

from pipeline.core.params import Block
from pipeline.datasets.labelled import Labelled, collect

__all__ = ["Digits", "load"]

_TEST = 360  # of 1797
_MAX_VALUE = 16  # the scans count dark pixels in 4x4 cells


class Digits(Block):
    """scikit-learn's `load_digits`, resized."""

    source: Literal["digits"]
    size: PositiveInt  # height and width in pixels
    channels: Literal[1, 3]


def load(params: Digits, split: Literal["train", "test"]) -> Labelled:
    """1437 training or 360 test scans; the split is fixed, stratified, and the same on every machine.

    The scans come from 43 writers; as in most uses of this set, one writer's digits stand in both splits.
    """
    # Imported here: it takes a second, and most runs read another set.
    from sklearn.datasets import load_digits

    bunch = cast(Any, load_digits())
    values: NDArray[np.float64] = bunch.images  # [1797, 8, 8], 0..16
    scans = np.round(values * 255 / _MAX_VALUE).astype(np.uint8)
    labels: NDArray[np.int64] = bunch.target
    order = _order(scans, labels)
    chosen = np.sort(order[:_TEST] if split == "test" else order[_TEST:])
    samples = ((Image.fromarray(scans[i]), int(labels[i])) for i in chosen)
    return collect(samples, tuple(map(str, range(10))), params.size, params.channels, f"digits ({split})")


def _order(scans: NDArray[np.uint8], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """A permutation of which every prefix has each class in proportion.

    Within a class the order is by sha256 of index and pixels, so that no library's random numbers decide the split.
    """
    keys = [hashlib.sha256(i.to_bytes(4, "little") + scan.tobytes()).digest() for i, scan in enumerate(scans)]
    place = np.empty(len(labels))
    for label in np.unique(labels):
        members = sorted(np.flatnonzero(labels == label), key=keys.__getitem__)
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
    return np.argsort(place, kind="stable")
