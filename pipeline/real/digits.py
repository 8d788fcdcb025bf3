"""The embedded default: 1797 real scans of handwritten digits at 8x8, no download.

The test set of "Optical Recognition of Handwritten Digits" (E. Alpaydin and C. Kaynak 1998, UCI Machine Learning
Repository, doi 10.24432/C50P49), licence CC BY 4.0, in the order in which scikit-learn's `load_digits` has it. It is
unchanged; `digits.gz` holds it as bytes, for each scan 64 pixels, row by row, then the digit.
"""

import gzip
import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from . import DataBlock, Samples, Split

__all__ = ["Data", "table"]

_TEST = 360  # of 1797
_MAX_VALUE = 16  # the scans count dark pixels in 4x4 cells


class Data(DataBlock):
    """The embedded digits: 1437 training and 360 test scans.

    The split is fixed, stratified, and the same on every machine. The scans come from 43 writers; as in most uses of
    this set, one writer's digits stand in both splits.
    """

    def read(self, split: Split) -> tuple[Samples, tuple[str, ...] | None]:
        """As in `DataBlock`."""
        return _scans(split), tuple(map(str, range(10)))


def _scans(split: Split) -> Samples:
    scans, labels = np.split(table(), [64], axis=1)
    scans = np.round(scans * (255 / _MAX_VALUE)).astype(np.uint8).reshape(-1, 8, 8)
    labels = labels[:, 0].astype(np.int64)
    order = _order(scans, labels)
    chosen = np.sort(order[:_TEST] if split == "test" else order[_TEST:])
    return ((Image.fromarray(scans[i]), int(labels[i])) for i in chosen)


def table() -> NDArray[np.uint8]:
    """[1797, 65]: row by row 64 pixels of 0..16, and the label."""
    packed = Path(__file__).with_name("digits.gz").read_bytes()
    return np.frombuffer(gzip.decompress(packed), dtype=np.uint8).reshape(-1, 65)


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
