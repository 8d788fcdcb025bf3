"""Teacher: a frozen network in eval mode that takes [0, 1] images and owns its normalisation."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor, nn

from pipeline import nets
from pipeline.core.errors import ParamsError, TeacherError
from pipeline.core.files import canonical_json, sha256_bytes, write_atomic
from pipeline.core.images import Normalise
from pipeline.core.params import Block, build
from pipeline.teacher import checkpoint, strict, usercode

__all__ = ["Teacher", "TeacherInfo"]

_MAX_INFO = 4 << 20  # bytes
_CURE = "run `dvc repro teacher`"


class TeacherInfo(Block):
    """What `teacher.json` says."""

    arch: str  # as in `nets.build`; `python:net.py:CALLABLE` is relative to the teacher's folder
    classes: tuple[str, ...]
    channels: int
    size: int  # height and width in pixels
    mean: tuple[float, ...]  # per channel, in [0, 1] units
    std: tuple[float, ...]
    batch_norm: bool
    sha256: str  # of model.safetensors, which changes with everything that decides what the teacher computes
    accuracy: float | None  # top-1 on the real test set, 0..1; None when there is no real data
    source: str  # where the weights came from, in words


class Teacher(nn.Module):
    """A frozen classifier: [N, C, H, W] images in [0, 1] to [N, K] raw logits."""

    def __init__(self, net: nn.Module, info: TeacherInfo, code: bytes | None = None) -> None:
        """Take over `net`: eval mode, no parameter requires a gradient.

        Args:
            net: takes normalised images.
            info: what is known about it.
            code: the user's Python file that `info.arch` refers to, if it does.
        """
        super().__init__()
        self.net = net.requires_grad_(requires_grad=False)
        self.normalise = Normalise(info.mean, info.std)
        self.info = info
        self._code = code
        self.eval()

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
        """Write `model.safetensors`, a user's code as `net.py`, and, last, `teacher.json`.

        The header of the weights file also holds architecture, normalisation and the code's hash, so that its sha256,
        to which `info.sha256` is set, names everything that decides what the teacher computes.
        """
        folder.mkdir(parents=True, exist_ok=True)
        kept = folder / usercode.KEPT_NAME
        if self._code is None:
            kept.unlink(missing_ok=True)
        else:
            write_atomic(kept, self._code)
        # Clones: tied parameters share memory, which safetensors refuses.
        tensors = {name: value.detach().cpu().contiguous().clone() for name, value in self.net.state_dict().items()}
        weights = save(tensors, metadata={"teacher": _card(self.info, self._code)})
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
            TeacherError: files missing, damaged, edited, or with code that is not trusted.
        """
        info = _read_info(folder / "teacher.json")
        path = folder / "model.safetensors"
        content = path.read_bytes() if path.is_file() else b""
        if sha256_bytes(content) != info.sha256:
            raise TeacherError(f"{path}: sha256 differs from teacher.json's {info.sha256}; {_CURE}")
        weights, metadata = strict.read_safetensors(content, str(path))
        built = usercode.build(info.arch, len(info.classes), info.channels, info.size, trust, folder=folder)
        if metadata.get("teacher") != _card(info, built.code):
            raise TeacherError(f"{folder}: teacher.json, net.py and model.safetensors are not of one run; {_CURE}")
        checkpoint.load_into(built.net, weights, f"{path} as {info.arch}")
        return cls(built.net, info, built.code)


def _card(info: TeacherInfo, code: bytes | None) -> str:
    """What decides the teacher's function beside its weights. One string: safetensors keeps several in random order."""
    fields = info.model_dump(include={"arch", "channels", "size", "mean", "std"})
    return canonical_json(fields | {"code": sha256_bytes(code) if code is not None else None}).decode()


def _read_info(path: Path) -> TeacherInfo:
    if not path.is_file():
        raise TeacherError(f"{path}: no teacher there; {_CURE}")
    if path.stat().st_size > _MAX_INFO:
        raise TeacherError(f"{path}: {path.stat().st_size} bytes, expected at most {_MAX_INFO}; {_CURE}")
    try:
        content: Any = json.loads(path.read_bytes())
        return build(TeacherInfo, content, str(path))
    except (ValueError, RecursionError, ParamsError) as error:
        raise TeacherError(f"{path}: damaged ({' '.join(str(error).split())[:500]}); {_CURE}") from error
