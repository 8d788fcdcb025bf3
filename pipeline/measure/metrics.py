"""What is measured of one student: the schema of `data/metrics/<cell>.json`, shared by its writer and its readers."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from ..core.errors import DataError, ParamsError
from ..core.files import canonical_json, sha256_bytes, write_output
from ..core.params import Block, build
from ..grid import Role, Row

__all__ = ["Belief", "Metrics", "class_labels", "read_metrics", "write_metrics"]

Share = Annotated[float, Field(ge=0, le=1)]
_DIGEST = "digest"


def class_labels(classes: tuple[str, ...]) -> tuple[str, ...]:
    """Class names fit to be keys: as they are, or numbered when two are the same (ImageNet has two cranes)."""
    if len(set(classes)) == len(classes):
        return classes
    return tuple(f"{index}: {name}" for index, name in enumerate(classes))


class Belief(Block):
    """Belief match between student and teacher; see `measure.belief`."""

    mte: Share  # mean transition error; compare only where the settings below are equal
    images: int  # real test images that were walked from; on all of them both name the same class
    steps: int  # K
    step_size: float  # xi, in normalised units
    stepped: Literal["student", "teacher"]  # whose gradient was followed


class Metrics(Block):
    """The measurements of one cell. Shares are in 0..1; the last epoch is measured, never the best one."""

    cell: str
    method: str  # the row's name
    student: str  # its name in params.yaml
    arch: str
    seed: int
    data_free: bool  # False: real data was used to train it
    online: bool  # the proxy, which trained while the images were made; False: trained from the shards
    labels: str  # what the student was trained on, as its card says
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

    @property
    def role(self) -> Role:
        """Whether this is a result, or something to compare with."""
        return Row.parse(self.method).role(self.data_free)

    @property
    def mte(self) -> float | None:
        """The mean transition error, where belief match was measured."""
        return self.belief.mte if self.belief else None


def write_metrics(metrics: Metrics, path: Path) -> None:
    """Write the JSON file with a digest of its content; the same measurements give the same bytes.

    Raises:
        WorkError: the disk is full.
    """
    write_output(path, canonical_json(metrics.model_dump() | {_DIGEST: _digest(metrics)}))


def read_metrics(path: Path) -> Metrics:
    """Read what `write_metrics` wrote.

    Raises:
        DataError: not there, no metrics file, changed since it was written, or another cell's; the message names it.
    """
    again = "run `dvc repro -f evaluate`"
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        digest = content.pop(_DIGEST, None) if isinstance(content, dict) else None
        metrics = build(Metrics, content, str(path))
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such metrics file; run `dvc repro evaluate`") from error
    except (ParamsError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: not a metrics file ({error}); {again}") from error
    if digest != _digest(metrics):
        raise DataError(f"{path}: edited or damaged: its digest does not fit its content; {again}")
    if path.stem != metrics.cell:
        raise DataError(f"{path}: holds the measurements of {metrics.cell}; {again}")
    return metrics


def _digest(metrics: Metrics) -> str:
    return sha256_bytes(canonical_json(metrics.model_dump()))
