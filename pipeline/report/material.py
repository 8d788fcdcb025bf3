"""Everything the report is made from: the cells that the matrix names, whatever else lies in the data folder."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.core.errors import DataError
from pipeline.metrics import Metrics, cell_name, proxy_name, read_metrics
from pipeline.report.dataset import DatasetFacts, flat, read_dataset
from pipeline.report.inputs import ReportInputs
from pipeline.report.series import Series, read_series

__all__ = ["DatasetFacts", "Material", "Provenance", "TeacherFacts", "read_material"]

T = TypeVar("T")


class _Facts(BaseModel):
    """Facts from another stage's JSON file; keys that the report does not show are left alone."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, allow_inf_nan=False)


class TeacherFacts(_Facts):
    """What the report says of the teacher."""

    arch: str
    classes: tuple[str, ...]
    channels: int
    size: int
    sha256: str
    accuracy: float | None
    source: str


class Provenance(_Facts):
    """What one run cost and where it ran."""

    seconds: float
    images: int
    environment: dict[str, str]  # every other key, nested ones joined by dots


@dataclass(frozen=True)
class Material:
    """Everything that was found; `missing` names what was not."""

    teacher: TeacherFacts
    cells: tuple[Metrics, ...]  # in the matrix's order: student, method, seed
    proxies: dict[str, Metrics]  # by method
    histories: dict[str, Series]  # by cell: loss and held-out agreement, by epoch
    beliefs: dict[str, Series]  # by cell, proxies among them: transition curves of student and teacher, by step
    datasets: dict[str, DatasetFacts]
    synthesis: dict[str, Provenance]  # by dataset
    training: dict[str, Provenance]  # by cell
    missing: tuple[str, ...]


def read_material(inputs: ReportInputs) -> Material:
    """Read what the matrix names; stale files of other cells are not looked at.

    Raises:
        DataError: there is no teacher, or a file is not what it should be; the message names it.
        ShardError: a dataset is damaged.
    """
    matrix, missing = inputs.matrix, list[str]()
    names = [cell_name(m, s, seed) for s in matrix.students for m in matrix.rows for seed in matrix.seeds]
    teacher = _read_teacher(inputs.teacher)
    pictures = (len(teacher.classes), inputs.params.impressions_per_class)

    def each(folder: str, items: Iterable[str], suffix: str, read: Callable[[Path], T], what: str) -> dict[str, T]:
        paths = {item: inputs.data / folder / f"{item}{suffix}" for item in items}
        missing.extend(f"{what} {item}" for item, path in paths.items() if not path.exists())
        return {item: read(path) for item, path in paths.items() if path.exists()}

    cells = each("metrics", names, ".json", read_metrics, "result of")
    found = tuple(cells)
    proxies = each("metrics", map(proxy_name, matrix.proxies), ".json", read_metrics, "result of")
    walked = [metrics.cell for metrics in (*cells.values(), *proxies.values()) if metrics.belief is not None]
    return Material(
        teacher=teacher,
        cells=tuple(cells.values()),
        proxies={metrics.method: metrics for metrics in proxies.values()},
        histories=each("history", found, ".csv", _read_history, "training curve of"),
        beliefs=each("belief", walked, ".csv", _read_beliefs, "transition curves of"),
        datasets=each("synthetic", matrix.datasets, "", lambda path: read_dataset(path, *pictures), "dataset"),
        synthesis=each("provenance/synthetic", matrix.datasets, ".json", _read_provenance, "cost of dataset"),
        training=each("provenance/students", found, ".json", _read_provenance, "cost of training"),
        missing=tuple(missing),
    )


def _read_teacher(path: Path) -> TeacherFacts:
    return _validated(TeacherFacts, _read_json(path), path)


def _read_history(path: Path) -> Series:
    return read_series(path, "epoch", {"loss", "holdout_agreement"}, "distill")


def _read_beliefs(path: Path) -> Series:
    return read_series(path, "step", {"student", "teacher"}, "evaluate")


def _read_provenance(path: Path) -> Provenance:
    content = _read_json(path)
    environment = flat({key: value for key, value in content.items() if key not in {"seconds", "images"}})
    return _validated(Provenance, content | {"environment": environment}, path)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path}: not there; run `dvc repro`") from error
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error}); run `dvc repro -f` on the stage that writes it") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected an object, found {type(content).__name__}")
    return cast(dict[str, Any], content)


F = TypeVar("F", bound=_Facts)


def _validated(model: type[F], content: dict[str, Any], path: Path) -> F:
    try:
        return model.model_validate_json(json.dumps(content))
    except ValidationError as error:
        first = error.errors()[0]
        raise DataError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
