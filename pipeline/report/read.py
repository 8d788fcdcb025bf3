"""Everything the report is made from: what the matrix names, whatever else lies in the data folder."""

import csv
import io
import json
import math
import statistics
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

from numpy import float64
from numpy.typing import NDArray
from pydantic import Field

from ..classifier import TeacherCard
from ..core.errors import DataError, ParamsError
from ..core.params import Block, build
from ..grid import Cell, Folder, Matrix, path_of
from ..measure.metrics import Metrics, read_metrics
from ..shards.manifest import Manifest
from ..shards.reader import Dataset
from .pictures import Pictures, first_images

__all__ = ["DatasetFacts", "Material", "Points", "Provenance", "ReportInputs", "ReportParams", "Series", "flat"]

T = TypeVar("T")

Points = tuple[tuple[float, float], ...]


class ReportParams(Block):
    """The `report` block."""

    title: str
    impressions_per_class: Annotated[int, Field(gt=0, le=32)]  # pictures of each class and dataset


@dataclass(frozen=True)
class ReportInputs:
    """The report's parameters and where its inputs are."""

    params: ReportParams
    matrix: Matrix
    teacher: TeacherCard
    similarity: NDArray[float64] | None  # [K, K] between classes; None for a teacher without a linear head
    data: Path  # the folder with metrics/, belief/, history/, provenance/ and synthetic/


class Provenance(Block):
    """What one run cost and where it ran."""

    seconds: float
    images: int
    environment: dict[str, str]  # every other key, nested ones joined by dots


@dataclass(frozen=True)
class Series:
    """Columns of numbers along one: an epoch or a step."""

    along: tuple[float, ...]
    columns: dict[str, tuple[float | None, ...]]  # each as long as `along`; None where there is no finite number

    def points(self, name: str, factor: float = 1.0) -> Points:
        """A column's numbers, times `factor`, where there are some; none at all where there is no such column."""
        values = self.columns.get(name, ())
        return tuple((x, y * factor) for x, y in zip(self.along, values, strict=False) if y is not None)


@dataclass(frozen=True)
class DatasetFacts:
    """What the report says of one dataset: its manifest, its first pictures, and how its generator was trained."""

    manifest: Manifest
    sha256: str  # of manifest.json
    pictures: Pictures
    fit: Series | None  # by epoch; None for a method that trains no generator

    @property
    def images(self) -> int:
        """How many there are to train on."""
        return self.manifest.samples.train

    @property
    def bytes(self) -> int:
        """The size of all shards and attachments."""
        return sum(entry.bytes for entry in (*self.manifest.every_entry, *self.manifest.attachments))

    @property
    def steered(self) -> bool:
        """Whether each image was aimed at a class; otherwise its class is the teacher's own choice."""
        return self.manifest.steered

    @property
    def learned(self) -> int | None:
        """How many different images its proxy student learned from, where the method's block tells."""
        return images_learned(self.manifest.method_params)


@dataclass(frozen=True)
class Material:
    """Everything that was found; `missing` names what was not."""

    teacher: TeacherCard
    cells: tuple[Metrics, ...]  # in the matrix's order: student, row, seed
    proxies: dict[str, Metrics]  # by dataset
    histories: dict[str, Series]  # by cell: loss and held-out agreement, by epoch
    beliefs: dict[str, Series]  # by cell, proxies among them: transition curves of student and teacher, by step
    datasets: dict[str, DatasetFacts]
    synthesis: dict[str, Provenance]  # by dataset
    training: dict[str, Provenance]  # by cell
    missing: tuple[str, ...]


def read_material(inputs: ReportInputs) -> Material:
    """Read what the matrix names; stale files of other cells are not looked at.

    Raises:
        DataError: a file is not what it should be; the message names it.
        ShardError: a dataset is damaged.
    """
    matrix, missing = inputs.matrix, list[str]()

    def each(folder: Folder, names: Iterable[str], read: Callable[[Path], T], what: str) -> dict[str, T]:
        paths = {name: inputs.data / path_of(folder, name) for name in names}
        missing.extend(f"{what} {name}" for name, path in paths.items() if not path.exists())
        return {name: read(path) for name, path in paths.items() if path.exists()}

    def measured(cells: Iterable[Cell]) -> dict[str, Metrics]:
        return each("metrics", [cell.name for cell in cells], read_metrics, "result of")

    cells, proxies = measured(matrix.cells), measured(matrix.proxy_cells)
    walked = [metrics.cell for metrics in (*cells.values(), *proxies.values()) if metrics.belief is not None]
    pictured = (len(inputs.teacher.classes), inputs.params.impressions_per_class)
    return Material(
        teacher=inputs.teacher,
        cells=tuple(cells.values()),
        proxies={metrics.method: metrics for metrics in proxies.values()},
        histories=each("history", cells, _reader("epoch", "distill"), "training curve of"),
        beliefs=each("belief", walked, _reader("step", "evaluate"), "transition curves of"),
        datasets=each("synthetic", matrix.datasets, lambda path: _read_dataset(path, *pictured), "dataset"),
        synthesis=each("provenance/synthetic", matrix.datasets, _read_provenance, "cost of dataset"),
        training=each("provenance/students", cells, _read_provenance, "cost of training"),
        missing=tuple(missing),
    )


def images_learned(params: dict[str, Any]) -> int | None:
    """How many different images a proxy student was trained on while its generator was, from the method's block.

    An iteration has `student_steps` proxy steps, each on a fresh batch, or all on the same one where `fresh` is false.
    None for a block without these keys: its proxy learns in another way.
    """
    keys = ("epochs", "iterations", "batch", "student_steps")
    if "proxy" not in params or not all(isinstance(params.get(key), int) for key in keys):
        return None
    epochs, iterations, batch, steps = (cast(int, params[key]) for key in keys)
    return epochs * iterations * batch * (steps if params.get("fresh", True) else 1)


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested values under dotted keys, as text."""
    leaves: dict[str, str] = {}
    for key, value in sorted(tree.items()):
        if isinstance(value, dict):
            leaves |= flat(cast(dict[str, Any], value), f"{prefix}{key}.")
        else:
            leaves[f"{prefix}{key}"] = value if isinstance(value, str) else json.dumps(value)
    return leaves


def mean_points(series: Iterable[Series], name: str) -> Points:
    """A column's mean over several series, at each place along them."""
    found: dict[float, list[float]] = {}
    for one in series:
        for x, y in one.points(name):
            found.setdefault(x, []).append(y)
    return tuple((x, statistics.fmean(values)) for x, values in sorted(found.items()))


def parse_series(content: bytes, where: str, along: str, cure: str) -> Series:
    """Columns of a CSV file in UTF-8 with a header; an absent or empty value, an infinite one and NaN are None.

    Args:
        content: of the file.
        where: its name, for messages.
        along: the column that must have a number in every line.
        cure: what to do about a file that is not right.

    Raises:
        DataError: not CSV, no column `along`, or a value that is not a number; names the file and the line.
    """
    places: list[float] = []
    columns: dict[str, list[float | None]] = {}
    for line, values in _lines(content, where, along, cure):
        place = _number(values.pop(along), line, cure)
        if place is None:
            raise DataError(f"{line}: no {along}; {cure}")
        places.append(place)
        for name, text in values.items():
            columns.setdefault(name, []).append(_number(text, line, cure))
    return Series(tuple(places), {name: tuple(column) for name, column in columns.items()})


def _lines(content: bytes, where: str, along: str, cure: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Each line's place in the file and its values by the header's names; a short line ends in empty ones."""
    try:
        reader = csv.reader(io.StringIO(content.decode("utf-8"), newline=""), strict=True)
        names = next(reader, [])
        if along not in names:
            raise DataError(f"{where}: no column named {along}; {cure}")
        for values in reader:
            padded = values + [""] * (len(names) - len(values))
            if values:  # no blank line
                yield f"{where}: line {reader.line_num}", dict(zip(names, padded, strict=False))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{where}: not CSV in UTF-8 ({error}); {cure}") from error


def _number(text: str, where: str, cure: str) -> float | None:
    if not text:
        return None
    try:
        value = float(text)
    except ValueError as error:
        raise DataError(f"{where}: {text[:40]!r} is not a number; {cure}") from error
    return value if math.isfinite(value) else None


def _reader(along: str, stage: str) -> Callable[[Path], Series]:
    """Reads a file that a stage wrote."""
    return lambda path: parse_series(path.read_bytes(), str(path), along, f"run `dvc repro -f {stage}`")


def _read_dataset(folder: Path, classes: int, per_class: int) -> DatasetFacts:
    dataset = Dataset.open(folder)
    histories = [entry for entry in dataset.manifest.attachments if entry.kind == "history"]
    fit = None
    if histories:
        where = str(folder / histories[0].name)
        fit = parse_series(dataset.attachment(histories[0]), where, "epoch", "make the dataset again")
    return DatasetFacts(dataset.manifest, dataset.sha256, first_images(dataset, classes, per_class), fit)


def _read_provenance(path: Path) -> Provenance:
    cure = "run `dvc repro -f` on the stage that writes it"
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise DataError(f"{path}: expected an object, found {type(content).__name__}; {cure}")
        own = {key: content.pop(key, None) for key in ("seconds", "images")}
        return build(Provenance, own | {"environment": flat(content)}, str(path))
    except (ParamsError, ValueError) as error:
        raise DataError(f"{path}: not a record of costs ({error}); {cure}") from error
