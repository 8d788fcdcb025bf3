"""Student: a network that was trained from shards, with its normalisation and its origin."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from pipeline import nets
from pipeline.core.errors import ParamsError, TrainingError
from pipeline.core.files import canonical_json, sha256_bytes, write_atomic
from pipeline.core.images import Normalise
from pipeline.core.params import Block, build
from pipeline.shards.reader import Dataset

__all__ = ["LastStep", "Student", "StudentInfo", "info_of", "network_of"]

_WEIGHTS, _CARD = "model.safetensors", "student.json"


class LastStep(Block):
    """How a student was finished on a few real images."""

    start: str  # sha256 of the weights it had before
    dataset: str  # sha256 of the manifest.json of the dataset they were drawn from
    per_class: int
    labels: str  # of this step: stored, live or target


class StudentInfo(Block):
    """What `student.json` says."""

    arch: str  # as in `nets.build`
    classes: tuple[str, ...]
    channels: int
    size: int  # height and width in pixels
    mean: tuple[float, ...]  # per channel, in [0, 1] units; the teacher's
    std: tuple[float, ...]
    method: str  # that made the dataset
    data_free: bool  # whether it never saw a real image, nor what it learned from
    labels: str  # stored, live or target
    seed: int
    dataset: str  # sha256 of the dataset's manifest.json
    teacher: str  # sha256 of the teacher's weights
    few_shot: LastStep | None  # None where there was no such step
    sha256: str  # of model.safetensors; empty before it is saved


class Student(nn.Module):
    """A classifier: [N, C, H, W] images in [0, 1] to [N, K] raw logits."""

    def __init__(self, net: nn.Module, info: StudentInfo) -> None:
        """Take over `net`, which takes normalised images."""
        super().__init__()
        self.net = net
        self.normalise = Normalise(info.mean, info.std)
        self.info = info

    def forward(self, images: Tensor) -> Tensor:
        """[N, C, H, W] in [0, 1] to [N, K] raw logits."""
        return self.net(self.normalise(images))

    def save(self, folder: Path) -> None:
        """Write `model.safetensors` and, last, `student.json`; `info.sha256` is set from the bytes written.

        Raises:
            WorkError: the disk is full.
        """
        folder.mkdir(parents=True, exist_ok=True)
        weights = save({name: value.contiguous().cpu() for name, value in self.net.state_dict().items()})
        write_atomic(folder / _WEIGHTS, weights)
        self.info = self.info.model_copy(update={"sha256": sha256_bytes(weights)})
        write_atomic(folder / _CARD, canonical_json(self.info.model_dump()))

    @classmethod
    def load(cls, folder: Path, trust: tuple[str, ...] = ()) -> "Student":
        """Read a student folder back: on the CPU, in evaluation mode.

        Args:
            folder: as `save` wrote it.
            trust: sha256 of user Python files whose code may run, for architectures that live in one.

        Raises:
            TrainingError: files missing, damaged, or weights that differ from the recorded sha256.
            ParamsError: the architecture is not known here.
            TeacherError: the architecture is in a user's file that is not trusted.
        """
        info = _read_card(folder / _CARD)
        path = folder / _WEIGHTS
        weights = path.read_bytes() if path.is_file() else b""
        if sha256_bytes(weights) != info.sha256:
            raise TrainingError(f"{path}: sha256 differs from {_CARD}'s {info.sha256!r}; run `dvc repro distill`")
        net = network_of(info, weights, trust, path, cure="run `dvc repro -f distill`")
        return cls(net, info).eval()


def info_of(dataset: Dataset, arch: str, labels: str, seed: int) -> StudentInfo:
    """What is known of a dataset's student before it is saved."""
    card = dataset.manifest.teacher
    return StudentInfo(
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


def network_of(info: StudentInfo, weights: bytes, trust: tuple[str, ...], path: Path, cure: str) -> nn.Module:
    """The network that `info` describes, with weights from somebody's file.

    Args:
        info: its architecture and what it takes and gives.
        weights: the content of a safetensors file.
        trust: sha256 of user Python files whose code may run.
        path: the file, for messages.
        cure: what to do when the weights are no good.

    Raises:
        TrainingError: the weights do not fit the architecture, or are not finite.
        ParamsError: the architecture is not known here.
        TeacherError: the architecture is in a user's file that is not trusted.
    """
    net = nets.build(info.arch, len(info.classes), info.channels, info.size, trust=trust)
    try:
        net.load_state_dict(load(weights))
    except (SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise TrainingError(f"{path}: does not fit architecture {info.arch}: {reason}") from error
    if not all(bool(torch.isfinite(value).all()) for value in net.state_dict().values()):
        raise TrainingError(f"{path}: holds weights that are not finite; {cure}")
    return net


def _read_card(path: Path) -> StudentInfo:
    if not path.is_file():
        raise TrainingError(f"{path}: no student there; run `dvc repro distill`")
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        return build(StudentInfo, content, str(path))
    except (ValueError, ParamsError) as error:
        raise TrainingError(f"{path}: not a student's card ({error}); run `dvc repro -f distill`") from error
