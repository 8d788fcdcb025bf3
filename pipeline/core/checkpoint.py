"""Training state on disk: nested dicts of tensors and plain values in one safetensors file, replaced atomically."""

import json
import time
from pathlib import Path
from typing import Any, cast

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from pipeline.core.errors import WorkError
from pipeline.core.files import write_atomic

__all__ = ["Checkpoint"]

_TENSOR = "__tensor__"


class Checkpoint:
    """One resumable state under one path; a rerun after kill -9 finds the last state that was saved whole."""

    def __init__(self, path: Path) -> None:
        """`path` need not exist; its folder must."""
        self.path = path
        self._spent, self._since = 0.0, time.perf_counter()

    def save(self, state: dict[str, Any]) -> None:
        """Store nested dicts and lists of tensors, numbers, strings, booleans and None (keys: str or int).

        Raises:
            TypeError: something else is in the state.
            WorkError: the disk is full.
        """
        tensors: dict[str, Tensor] = {}
        now = time.perf_counter()
        self._spent, self._since = self._spent + now - self._since, now
        tree = {"state": _flatten(state, tensors), "seconds": self._spent}
        write_atomic(self.path, save(tensors, metadata={"tree": json.dumps(tree)}))

    def load(self) -> dict[str, Any] | None:
        """The last saved state on the CPU, or None when there is none.

        Raises:
            WorkError: the file is there but damaged.
        """
        found = self._read(tensors=True)
        if found is None:
            return None
        state, self._spent = found
        return state

    def seconds(self) -> float:
        """How long it took to come to the stored state: all runs up to what each saved last. 0 when there is none.

        Raises:
            WorkError: the file is there but damaged.
        """
        found = self._read(tensors=False)
        return 0.0 if found is None else found[1]

    def _read(self, *, tensors: bool) -> tuple[dict[str, Any], float] | None:
        """State and seconds; without `tensors` the state is empty."""
        if not self.path.exists():
            return None
        try:
            with safe_open(str(self.path), framework="pt") as file:  # pyright: ignore[reportUnknownVariableType]
                tree = json.loads(cast(dict[str, str], file.metadata())["tree"])
                if not tensors:
                    return {}, float(tree["seconds"])
                values = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 # pyright: ignore
                return _unflatten(tree["state"], values), float(tree["seconds"])
        except (SafetensorError, KeyError, TypeError, json.JSONDecodeError, OSError) as error:
            cure = "delete it to start this training anew"
            raise WorkError(f"{self.path}: damaged checkpoint ({error}); {cure}") from error

    def clear(self) -> None:
        """Remove the stored state."""
        self.path.unlink(missing_ok=True)


def _flatten(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        name = f"{len(tensors):05d}"
        tensors[name] = value.detach().to("cpu", copy=True).contiguous()
        return {_TENSOR: name}
    if isinstance(value, dict):
        # Pairs, not an object: optimiser states have integer keys, which JSON objects would turn to text.
        return {"pairs": [[key, _flatten(item, tensors)] for key, item in cast(dict[Any, Any], value).items()]}
    if isinstance(value, (list, tuple)):
        return [_flatten(item, tensors) for item in cast(list[Any], value)]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"a checkpoint cannot hold {type(value).__name__}")


def _unflatten(tree: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(tree, dict):
        tree = cast(dict[str, Any], tree)
        if _TENSOR in tree:
            return tensors[tree[_TENSOR]]
        return {key: _unflatten(item, tensors) for key, item in tree["pairs"]}
    if isinstance(tree, list):
        return [_unflatten(item, tensors) for item in cast(list[Any], tree)]
    return tree
