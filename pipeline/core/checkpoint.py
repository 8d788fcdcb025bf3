"""Training state on disk: nested dicts of tensors and plain values in one sealed file, replaced atomically."""

import hashlib
import json
import time
from pathlib import Path
from typing import Any, NamedTuple, Self, cast

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from .errors import WorkError
from .files import write_atomic

__all__ = ["Checkpoint"]

_TENSOR = "__tensor__"
_METADATA = "checkpoint"
_BLANK = b"0" * 64  # stands where the seal will stand while the file is hashed
_MARK = b'\\"seal\\": \\"'  # the seal comes first in the metadata, as JSON within JSON
_HEAD = 256  # bytes from the file's beginning within which it lies
_BLOCK = 1 << 20


class _Clock:
    """Seconds of work that led to a state, over all runs; what belongs to one training shares one."""

    def __init__(self) -> None:
        self._spent, self._since = 0.0, time.perf_counter()

    def note(self) -> float:
        """The seconds so far, on saving."""
        now = time.perf_counter()
        self._spent, self._since = self._spent + now - self._since, now
        return self._spent

    def go_on(self, seconds: float) -> None:
        """What earlier runs had spent, on loading. A part may be older than what is counted already."""
        self._spent = max(self._spent, seconds)


class _Stored(NamedTuple):
    """What is in a file."""

    state: dict[str, Any]
    seconds: float


class Checkpoint:
    """One resumable state under one path; a rerun after kill -9 finds the last state that was saved whole.

    The file carries the sha256 of all its bytes, the name of the training that owns it and its own: what is damaged,
    was left by another training, or is another part of this one, is never resumed from.
    """

    def __init__(self, path: Path, owner: str = "", *, _clock: _Clock | None = None) -> None:
        """Nothing is touched.

        Args:
            path: need not exist; its folder must.
            owner: names everything that determines the training, such as a work directory's fingerprint.
        """
        self.path, self.owner = path, owner
        self._clock = _clock or _Clock()

    def part(self, name: str) -> Self:
        """A further state of the same training, such as a snapshot: `<stem>-<name>` beside this one's file.

        Its seconds are those of the whole training so far: what a killed run spent on a part that was saved counts.
        """
        path = self.path.with_name(f"{self.path.stem}-{name}{self.path.suffix}")
        return type(self)(path, self.owner, _clock=self._clock)

    def save(self, state: dict[str, Any]) -> None:
        """Store nested dicts and lists of tensors, numbers, strings, booleans and None (keys: str or int).

        Raises:
            TypeError: something else is in the state.
            WorkError: the disk is full.
        """
        tensors: dict[str, Tensor] = {}
        tree = {"state": _flatten(state, tensors), "seconds": self._clock.note(), **self._whose}
        content = save(tensors, metadata={_METADATA: json.dumps({"seal": _BLANK.decode(), **tree})})
        write_atomic(self.path, _sealed(content))

    def load(self) -> dict[str, Any] | None:
        """The last saved state on the CPU, or None when there is none.

        Raises:
            WorkError: the file is there but damaged, or of another training.
        """
        found = self._read(tensors=True)
        if found is None:
            return None
        self._clock.go_on(found.seconds)
        return found.state

    def seconds(self) -> float:
        """How long it took to come to the stored state: all runs up to what each saved last. 0 when there is none.

        Raises:
            WorkError: the file is there but damaged, or of another training.
        """
        found = self._read(tensors=False)
        return 0.0 if found is None else found.seconds

    def clear(self) -> None:
        """Remove the stored state."""
        self.path.unlink(missing_ok=True)

    def _read(self, *, tensors: bool) -> _Stored | None:
        """The file's content; without `tensors` the state is empty."""
        if not self.path.exists():
            return None
        try:
            _check_seal(self.path)
            with safe_open(str(self.path), framework="pt") as file:  # pyright: ignore[reportUnknownVariableType]
                tree = json.loads(cast(dict[str, str], file.metadata())[_METADATA])
                names = file.keys() if tensors else ()
                values = {name: file.get_tensor(name) for name in names}
            state = _unflatten(tree["state"], values) if tensors else {}
            found, whose = _Stored(state, float(tree["seconds"])), {key: tree[key] for key in self._whose}
        except (SafetensorError, LookupError, TypeError, ValueError, OSError) as error:
            cure = "delete it to start this training anew"
            raise WorkError(f"{self.path}: damaged checkpoint ({error}); {cure}") from error
        if whose["owner"] != self.owner:
            raise WorkError(f"{self.path}: a checkpoint of another training; delete it to start this one anew")
        if whose != self._whose:
            raise WorkError(f"{self.path}: the content of {whose['name']}; delete it to start this training anew")
        return found

    @property
    def _whose(self) -> dict[str, str]:
        """What a file must say of itself: parts of one training differ by name alone."""
        return {"owner": self.owner, "name": self.path.name}


def _sealed(content: bytes) -> bytes:
    """A file's bytes with its seal in the place that was left blank."""
    place = content.index(_MARK + _BLANK, 0, _HEAD) + len(_MARK)
    seal = hashlib.sha256(content).hexdigest().encode()
    return b"".join((content[:place], seal, memoryview(content)[place + len(seal) :]))


def _check_seal(path: Path) -> None:
    """Read a file once and compare its seal.

    Raises:
        ValueError: there is none, or it is of other bytes.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD)
        place = head.find(_MARK) + len(_MARK)
        end = place + len(_BLANK)
        if place < len(_MARK) or end > len(head):
            raise ValueError("no seal")
        digest = hashlib.sha256(head[:place] + _BLANK + head[end:])
        while block := file.read(_BLOCK):
            digest.update(block)
    if digest.hexdigest().encode() != head[place:end]:
        raise ValueError("sha256 differs")


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
