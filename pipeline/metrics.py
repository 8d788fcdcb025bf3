# shim
from . import grid
from .grid import PROXY as PROXY
from .measure.metrics import Belief as Belief
from .measure.metrics import Metrics as Metrics
from .measure.metrics import class_labels as class_labels
from .measure.metrics import read_metrics as read_metrics
from .measure.metrics import write_metrics as write_metrics


def cell_name(method: str, student: str, seed: int) -> str:
    return grid.Cell(grid.Row.parse(method), student, seed).name


def Cell(*, method: str, student: str, seed: int, **_: bool) -> grid.Cell:  # noqa: N802
    return grid.Cell(grid.Row.parse(method), student, seed)
