"""The teacher's old place."""  # shim

from pathlib import Path

from torch import nn

from pipeline.classifier import Classifier, TeacherCard
from pipeline.classifier import TeacherCard as TeacherInfo  # noqa: F401

__all__ = ["Teacher", "TeacherInfo"]


class Teacher(Classifier[TeacherCard]):  # shim
    """A frozen classifier; `Classifier(net, card, code).freeze()` in its place."""

    def __init__(self, net: nn.Module, card: TeacherCard, code: bytes | None = None) -> None:
        """Freeze at once."""
        super().__init__(net, card, code)
        self.freeze()

    @classmethod
    def load(cls, folder: Path, trust: tuple[str, ...] = ()) -> "Teacher":  # pyright: ignore
        """`Classifier.load(folder, TeacherCard, trust)`."""
        found = Classifier.load(folder, TeacherCard, trust)
        return cls(found.net, found.card, found.code)
