"""Weights from a file into a network, strictly: nothing missing, nothing over, nothing misshaped or not finite."""

from pathlib import Path

import torch
from torch import Tensor, nn

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


def load_into(net: nn.Module, weights: dict[str, Tensor], where: str) -> None:
    """Load a complete set of weights; floating-point values are cast to the network's dtype.

    `num_batches_tracked` may be missing (checkpoints from before it existed): no network in eval mode reads it.

    Args:
        net: the network, changed only when everything fits.
        weights: tensors by name.
        where: names the file and the architecture in messages.

    Raises:
        TeacherError: one line with every missing, unexpected, misshaped or mistyped name, and every one with values
            that are not finite or variances that are negative.
    """
    expected: dict[str, Tensor] = net.state_dict()
    counters = {name: value for name, value in expected.items() if name.endswith("num_batches_tracked")}
    offered = counters | weights
    problems = _differences("missing", expected, offered) + _differences("unexpected", offered, expected)
    fitting: dict[str, Tensor] = {}
    for name in sorted(expected.keys() & offered.keys()):
        fitting[name], problem = _fitted(offered[name], expected[name])
        problems += [f"{name}: {problem}"] if problem else []
        if not problem and name.endswith("running_var") and bool((fitting[name] < 0).any()):
            problems.append(f"{name}: a variance is negative")
    if problems:
        raise TeacherError(f"{where}: the weights do not fit: {'; '.join(problems)}")
    net.load_state_dict(fitting)


def _differences(what: str, names: dict[str, Tensor], others: dict[str, Tensor]) -> list[str]:
    left = sorted(names.keys() - others.keys())
    return [f"{what} {', '.join(name if name.isprintable() else ascii(name) for name in left)}"] if left else []


def _fitted(value: Tensor, expected: Tensor) -> tuple[Tensor, str | None]:
    """The value in the network's dtype, and what is wrong with it."""
    if value.shape != expected.shape:
        return value, f"shape {list(value.shape)}, expected {list(expected.shape)}"
    if value.is_floating_point() != expected.is_floating_point() or value.is_complex():
        return value, f"{_dtype(value)}, expected {_dtype(expected)}"
    cast = value.to(expected.dtype)
    wrong = int((~torch.isfinite(cast)).sum()) if cast.is_floating_point() else 0
    return cast, f"{wrong} of {cast.numel()} values are not finite" if wrong else None


def _dtype(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")
