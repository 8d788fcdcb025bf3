"""Teacher: a frozen network in eval mode that takes [0, 1] images and owns its normalisation."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from pipeline import nets
from pipeline.core.errors import TeacherError
from pipeline.core.files import canonical_json, sha256_bytes, sha256_file, write_atomic
from pipeline.core.images import Normalise
from pipeline.core.params import Block, build

__all__ = ["Teacher", "TeacherInfo"]


class TeacherInfo(Block):
    """What `teacher.json` says."""

    arch: str  # as in `nets.build`
    classes: tuple[str, ...]
    channels: int
    size: int  # height and width in pixels
    mean: tuple[float, ...]  # per channel, in [0, 1] units
    std: tuple[float, ...]
    batch_norm: bool
    sha256: str  # of model.safetensors
    accuracy: float | None  # top-1 on the real test set, 0..1; None when there is no real data
    source: str  # where the weights came from, in words


class Teacher(nn.Module):
    """A frozen classifier: [N, C, H, W] images in [0, 1] to [N, K] raw logits."""

    def __init__(self, net: nn.Module, info: TeacherInfo) -> None:
        """Take over `net`: eval mode, no parameter requires a gradient."""
        super().__init__()
        self.net = net.eval().requires_grad_(requires_grad=False)
        self.normalise = Normalise(info.mean, info.std)
        self.info = info

    def forward(self, images: Tensor) -> Tensor:
        """[N, C, H, W] in [0, 1] to [N, K] raw logits."""
        return self.net(self.normalise(images))

    def train(self, mode: bool = True) -> "Teacher":
        """A teacher stays in eval mode: its statistics must not move.

        Raises:
            TeacherError: somebody asks for training mode.
        """
        if mode:
            raise TeacherError("a teacher is frozen; train a copy of its `net` instead")
        return super().train(mode)

    @property
    def head(self) -> nn.Linear:
        """The final linear layer, weights [K, d].

        Raises:
            TeacherError: the network does not end in one.
        """
        return nets.final_linear(self.net)

    def save(self, folder: Path) -> None:
        """Write `model.safetensors` and, last, `teacher.json`; `info.sha256` is set from the bytes written."""
        folder.mkdir(parents=True, exist_ok=True)
        weights = save({name: value.contiguous() for name, value in self.net.state_dict().items()})
        write_atomic(folder / "model.safetensors", weights)
        info = self.info.model_copy(update={"sha256": sha256_bytes(weights)})
        write_atomic(folder / "teacher.json", canonical_json(info.model_dump()))
        self.info = info

    @classmethod
    def load(cls, folder: Path, trust: tuple[str, ...] = ()) -> "Teacher":
        """Read a teacher folder back, on the CPU.

        Args:
            folder: as `save` wrote it.
            trust: sha256 of user Python files whose code may run, for architectures that live in one.

        Raises:
            TeacherError: files missing, damaged, or weights that differ from the recorded sha256.
        """
        info = _read_info(folder / "teacher.json")
        weights = folder / "model.safetensors"
        if not weights.is_file() or sha256_file(weights) != info.sha256:
            raise TeacherError(f"{weights}: sha256 differs from teacher.json's {info.sha256}; run `dvc repro teacher`")
        net = nets.build(info.arch, len(info.classes), info.channels, info.size, trust=trust)
        try:
            net.load_state_dict(load_file(weights))
        except (SafetensorError, RuntimeError) as error:
            raise TeacherError(f"{weights}: does not fit architecture {info.arch}: {error}") from error
        return cls(net, info)


def _read_info(path: Path) -> TeacherInfo:
    if not path.is_file():
        raise TeacherError(f"{path}: no teacher there; run `dvc repro teacher`")
    content: Any = json.loads(path.read_text(encoding="utf-8"))
    return build(TeacherInfo, content, str(path))
