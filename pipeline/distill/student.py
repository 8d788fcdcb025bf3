"""The student's old place."""  # shim

from pathlib import Path

from torch import nn

from pipeline.classifier import Classifier, LastStep, StudentCard
from pipeline.classifier import StudentCard as StudentInfo
from pipeline.core.errors import TrainingError
from pipeline.shards.reader import Dataset

__all__ = ["LastStep", "Student", "StudentInfo", "info_of", "network_of"]


class Student(Classifier[StudentCard]):  # shim
    """`Classifier(net, card)` in its place."""

    @classmethod
    def load(cls, folder: Path, trust: tuple[str, ...] = ()) -> "Student":  # pyright: ignore
        """`Classifier.load(folder, StudentCard, trust, frozen=False)`."""
        found = Classifier.load(folder, StudentCard, trust, frozen=False)
        return cls(found.net, found.card, found.code).eval()


def info_of(dataset: Dataset, arch: str, labels: str, seed: int) -> StudentCard:
    """What is known of a dataset's student before it is saved."""
    card = dataset.manifest.teacher
    return StudentCard(
        **card.model_dump(include={"classes", "channels", "size", "mean", "std"}),
        arch=arch,
        method=dataset.manifest.method,
        data_free=dataset.manifest.data_free,
        labels=labels,
        seed=seed,
        dataset=dataset.sha256,
        teacher=card.sha256,
        few_shot=None,
        sha256="",
    )


def network_of(info: StudentCard, weights: bytes, trust: tuple[str, ...], path: Path, cure: str) -> nn.Module:
    """`Classifier.from_weights` in its place."""
    try:
        return Classifier.from_weights(info, weights, trust, str(path), cure).net
    except TrainingError as error:
        raise TrainingError(f"{path}: does not fit architecture {info.arch}: {error}") from error
