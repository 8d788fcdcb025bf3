"""What is measured of one student: the schema of `data/metrics/<cell>.json`, shared by its writer and its readers."""

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from pipeline.core.errors import DataError, ParamsError
from pipeline.core.files import canonical_json, write_atomic
from pipeline.core.params import Block, build

__all__ = [
    "PROXY",
    "Belief",
    "Cell",
    "Metrics",
    "cell_name",
    "class_labels",
    "proxy_name",
    "read_metrics",
    "write_metrics",
]

PROXY = "proxy"  # the student's name in cells of proxies

Share = Annotated[float, Field(ge=0, le=1)]


def cell_name(method: str, student: str, seed: int) -> str:
    """The name of one cell of the matrix, and of every file that belongs to it."""
    return f"{method}-{student}-{seed}"


def proxy_name(method: str) -> str:
    """The same for the proxy student of a method's dataset, of which there is one."""
    return f"{method}-{PROXY}"


def class_labels(classes: tuple[str, ...]) -> tuple[str, ...]:
    """Class names fit to be keys: as they are, or numbered when two are the same (ImageNet has two cranes)."""
    if len(set(classes)) == len(classes):
        return classes
    return tuple(f"{index}: {name}" for index, name in enumerate(classes))


class Cell(Block):
    """Which student: trained on what, and from which seed."""

    method: str
    student: str  # its name in params.yaml
    seed: int
    data_free: bool  # False: real data was used to train it
    reference: bool  # a row to compare with, not a result
    online: bool  # the proxy, which trained while the images were made; False: trained from the shards

    @property
    def name(self) -> str:
        """The cell's name."""
        return proxy_name(self.method) if self.online else cell_name(self.method, self.student, self.seed)


class Belief(Block):
    """How alike student and teacher change their minds between classes; see pipeline/belief.py."""

    mte: Share  # mean transition error; compare only where the settings below are equal
    images: int  # real test images that were walked from; on all of them both name the same class
    steps: int  # K
    step_size: float  # xi, in normalised units
    stepped: Literal["student", "teacher"]  # whose gradient was followed


class Metrics(Block):
    """The measurements of one cell. Shares are in 0..1; the last epoch is measured, never the best one."""

    cell: str
    method: str
    student: str
    arch: str
    seed: int
    data_free: bool
    reference: bool
    online: bool
    labels: str  # what the student was trained on: stored, live or target
    samples: int  # images behind `accuracy`, `agreement` and `kl_to_teacher`
    accuracy: Share | None  # top-1 on real test data; None without any
    top5: Share | None  # only for 20 classes and more
    per_class: dict[str, Share | None] | None  # top-1 of each class; None for a class without test images
    agreement: Share | None  # images on which student and teacher name the same class
    kl_to_teacher: float | None  # KL(teacher || student) in nats at temperature 1, mean over images
    agreement_on: Literal["test", "holdout"] | None  # where `agreement` and `kl_to_teacher` were measured
    holdout_agreement: Share | None  # the same two on the dataset's held-out synthetic images
    holdout_kl: float | None
    teacher_accuracy: Share | None
    belief: Belief | None  # on real test data; None without any, without the teacher, or where it was not asked for
    parameters: int  # of the student
    note: str | None  # what could not be measured, and why


def write_metrics(metrics: Metrics, path: Path) -> None:
    """Write the JSON file; the same measurements give the same bytes.

    Raises:
        WorkError: the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, canonical_json(metrics.model_dump()))


def read_metrics(path: Path) -> Metrics:
    """Read what `write_metrics` wrote.

    Raises:
        DataError: the file is not there, or is not a metrics file; the message names it.
    """
    try:
        return build(Metrics, json.loads(path.read_text(encoding="utf-8")), str(path))
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such metrics file; run `dvc repro evaluate`") from error
    except (ParamsError, ValueError) as error:
        raise DataError(f"{path}: not a metrics file ({error}); run `dvc repro -f evaluate`") from error
