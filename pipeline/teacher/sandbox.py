"""Pickled checkpoints are opened in a child process of bounded memory and time; only plain tensors come back."""

import json
import os
import subprocess
import sys
from pathlib import Path

from torch import Tensor

from pipeline.core.errors import TeacherError
from pipeline.teacher import strict, unpack

__all__ = ["read_pickled"]

_SECONDS = 120.0  # to start Python, import torch and read; a normal file takes a few
_SCRIPT = Path(unpack.__file__)  # imported, though only run, so that the code fingerprint sees it
_KEPT_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "HOME", "TMPDIR", "LANG")


def read_pickled(path: Path, key: str | None) -> dict[str, Tensor]:
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
    return strict.read_safetensors(done.stdout, str(path))[0]


def _reason(done: subprocess.CompletedProcess[bytes]) -> str:
    if done.returncode == 2 and done.stderr.strip():
        return done.stderr.decode("ascii", "replace").strip().splitlines()[-1]
    status = f"signal {-done.returncode}" if done.returncode < 0 else f"exit status {done.returncode}"
    return f"the reader died on it ({status}); the file is damaged or hostile"
