"""Weights from a file into a network, strictly: nothing missing, nothing over, nothing misshaped or not finite."""

from pathlib import Path

from torch import Tensor

from pipeline.classifier import load_into
from pipeline.core.errors import TeacherError
from pipeline.teacher import sandbox, strict

__all__ = ["load_into", "read_weights"]

_PICKLED = {".pt", ".pth", ".th"}
_MAX_BYTES = 8 << 30
_PREFIXES = ("module.", "_orig_mod.")  # of DataParallel and of torch.compile


def read_weights(path: Path, key: str | None) -> dict[str, Tensor]:
    """Read a state dict from a `.safetensors` file, or from a `.pt`, `.pth` or `.th` file through the sandbox.

    Args:
        path: a regular file.
        key: where in a pickled checkpoint the state dict is (dots separate levels); None to find it at the top or
            under `state_dict`, `model` or `net`.

    Returns:
        CPU tensors by name, without the prefix that DataParallel or torch.compile gave to all of them.

    Raises:
        TeacherError: one line with the file and the reason.
    """
    if not path.is_file():
        raise TeacherError(f"{path}: no such checkpoint file")
    if path.stat().st_size > _MAX_BYTES:
        raise TeacherError(f"{path}: {path.stat().st_size} bytes, expected at most {_MAX_BYTES}")
    try:
        return _stripped(_read(path, key))
    except OSError as error:
        raise TeacherError(f"{path}: cannot be read ({error.strerror or error})") from error


def _read(path: Path, key: str | None) -> dict[str, Tensor]:
    suffix = path.suffix.lower()
    if suffix in _PICKLED:
        return sandbox.read_pickled(path, key)
    if suffix != ".safetensors":
        raise TeacherError(f"{path}: expected .safetensors or one of {', '.join(sorted(_PICKLED))}")
    if key is not None:
        raise TeacherError(f"{path}: key {key!r}, but a .safetensors file has no nesting; set teacher.key: null")
    return strict.read_safetensors(path.read_bytes(), str(path))[0]


def _stripped(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in _PREFIXES:
        if weights and all(name.startswith(prefix) for name in weights):
            return _stripped({name.removeprefix(prefix): value for name, value in weights.items()})
    return weights
