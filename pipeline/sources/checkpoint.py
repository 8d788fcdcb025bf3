"""A state dict from a checkpoint file.

Pickled checkpoints are opened in a child process of bounded memory and time (`unpack.py`); only plain tensors come
back.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from torch import Tensor

from ..core.errors import TeacherError
from ..nets.weights import Check, Shapes, read_safetensors
from . import unpack

__all__ = ["read_weights"]

T = TypeVar("T")

_PICKLED = {".pt", ".pth", ".th"}
_MAX_BYTES = 8 << 30
_PREFIXES = ("module.", "_orig_mod.")  # of DataParallel and of torch.compile
_SECONDS = 120.0  # to start Python, import torch and read; a normal file takes a few
_SCRIPT = Path(unpack.__file__)  # imported, though only run, so that the code fingerprint sees it
_KEPT_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "HOME", "TMPDIR", "LANG")


def read_weights(path: Path, key: str | None, check: Check | None = None) -> dict[str, Tensor]:
    """Read a state dict from a `.safetensors` file, or from a `.pt`, `.pth` or `.th` file through the sandbox.

    Args:
        path: a regular file.
        key: where in a pickled checkpoint the state dict is (dots separate levels); None to find it at the top or
            under `state_dict`, `model` or `net`.
        check: sees shapes by name before the weights themselves are read, where the format allows it.

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
        return _stripped(_read(path, key, check))
    except OSError as error:
        raise TeacherError(f"{path}: cannot be read ({error.strerror or error})") from error


def _read(path: Path, key: str | None, check: Check | None) -> dict[str, Tensor]:
    suffix = path.suffix.lower()
    if suffix in _PICKLED:
        return _read_pickled(path, key)
    if suffix != ".safetensors":
        raise TeacherError(f"{path}: expected .safetensors or one of {', '.join(sorted(_PICKLED))}")
    if key is not None:
        raise TeacherError(f"{path}: key {key!r}, but a .safetensors file has no nesting; set teacher.key: null")
    if check is None:
        return read_safetensors(path, str(path))[0]

    def of_stripped(shapes: Shapes, metadata: Mapping[str, str]) -> None:
        check(_stripped(shapes), metadata)

    return read_safetensors(path, str(path), of_stripped)[0]


def _stripped(weights: Mapping[str, T]) -> dict[str, T]:
    for prefix in _PREFIXES:
        if weights and all(name.startswith(prefix) for name in weights):
            return _stripped({name.removeprefix(prefix): value for name, value in weights.items()})
    return dict(weights)


def _read_pickled(path: Path, key: str | None) -> dict[str, Tensor]:
    """Read a `.pt` file's state dict through the child.

    The child (`unpack.py`) checks the container, loads with `weights_only=True`, and hands back safetensors, which are
    parsed as strictly as a file from outside.

    Args:
        path: the file.
        key: where in the checkpoint the state dict is (dots separate levels), or None to look in the usual places.

    Raises:
        TeacherError: one line with the file and the reason.
    """
    command = [sys.executable, "-I", str(_SCRIPT), str(path.stat().st_size), json.dumps(key)]
    # No TORCH_* settings reach the child, some of which weaken the loader.
    environment = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
    try:
        with path.open("rb") as file:
            done = subprocess.run(
                command,
                stdin=file,
                capture_output=True,
                timeout=_SECONDS,
                check=False,
                env=environment | {"OMP_NUM_THREADS": "1"},
                cwd="/",
            )
    except subprocess.TimeoutExpired as error:
        raise TeacherError(f"{path}: not read within {_SECONDS:.0f} s, refused") from error
    if done.returncode != 0:
        raise TeacherError(f"{path}: {_reason(done)}")
    return read_safetensors(done.stdout, str(path))[0]


def _reason(done: subprocess.CompletedProcess[bytes]) -> str:
    if done.returncode == 2 and done.stderr.strip():
        return done.stderr.decode("ascii", "replace").strip().splitlines()[-1]
    status = f"signal {-done.returncode}" if done.returncode < 0 else f"exit status {done.returncode}"
    return f"the reader died on it ({status}); the file is damaged or hostile"
