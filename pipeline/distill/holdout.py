# shim
from collections.abc import Callable

from torch import nn

from ..core.device import Compute
from ..measure.holdout import holdout_of as _holdout_of
from ..shards.reader import Dataset
from ..training import Row
from .feed import fits


def holdout_of(dataset: Dataset, memory_mb: int, compute: Compute) -> Callable[[nn.Module], Row] | None:
    return _holdout_of(dataset, fits(dataset, memory_mb), compute)
