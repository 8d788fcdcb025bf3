"""The child process that opens pickled checkpoints; run as a script by `checkpoint.py`, with nothing of ours imported.

A torch checkpoint from standard input goes out as safetensors on standard output. `weights_only=True` keeps code from
running, but not memory from growing (a 2 kB file may ask for 4 GiB), so this process limits its own memory before it
looks at a byte. Exit status 2 and one line on standard error say why a file is refused.
"""

import io
import json
import os
import re
import resource
import sys
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

if TYPE_CHECKING:
    import torch

__all__ = ["main"]

_SLACK = 256 << 20  # bytes beyond the copies of the file that reading and writing need
_COPIES = 6  # the file, its storages, contiguous clones, their bytes, the output, and one to spare
_MAX_ENTRIES = 30_000
_MAX_NAME = 500
_LEGACY_MAGIC = bytes.fromhex("6cfc9c46f9206aa85019")
_NESTS = ("state_dict", "model", "net")  # where checkpoints usually keep the weights
_SAVE = "save net.state_dict() instead, best as .safetensors"


class _RefusedError(Exception):
    """Why a file cannot be read."""


def main() -> None:
    """Read a checkpoint of `argv[1]` bytes from standard input; `argv[2]` is the key as JSON: a string or null."""
    size, key = int(sys.argv[1]), cast("str | None", json.loads(sys.argv[2]))
    warnings.simplefilter("ignore")
    try:
        _limit(size)
        content = sys.stdin.buffer.read(size + 1)
        if len(content) != size:
            raise _RefusedError("changed while it was read")
        _check_container(content)
        sys.stdout.buffer.write(_converted(content, key, size))
        sys.stdout.buffer.flush()
    except _RefusedError as error:
        _refuse(str(error))
    except MemoryError:
        _refuse("exceeds the memory budget for a file of its size, refused")


def _refuse(reason: str) -> NoReturn:
    sys.stderr.write(f"\n{ascii(' '.join(reason.split()))[1:-1]}\n")
    sys.exit(2)


def _limit(size: int) -> None:
    """On Linux, no more memory than a file of this size can need beyond what is in use now."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return
    now = int(statm.read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    wanted = now + _SLACK + _COPIES * size
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _check_container(content: bytes) -> None:
    """Refuse what is neither torch's zip nor its old format, and every zip that is not as torch writes it."""
    if not content.startswith(b"PK\x03\x04"):
        if not content.startswith(b"\x80") or _LEGACY_MAGIC not in content[:32]:
            raise _RefusedError("not a torch checkpoint")
        return
    entries = _members(content)
    _check_names([entry.filename for entry in entries])
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED:
            raise _RefusedError(f"compressed member {entry.filename}, refused; torch.save writes none")
    declared = sum(entry.file_size for entry in entries)
    if declared > len(content):
        raise _RefusedError(f"its members declare {declared} bytes, but the file has {len(content)}")


def _members(content: bytes) -> list[zipfile.ZipInfo]:
    """What the archive's directory lists, if it is what stands at each member."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = archive.infolist()
            if len(entries) > _MAX_ENTRIES:
                raise _RefusedError(f"an archive of {len(entries)} members, expected at most {_MAX_ENTRIES}")
            for entry in entries:
                archive.open(entry).close()  # which compares the two
    except (zipfile.BadZipFile, ValueError, OverflowError, RuntimeError) as error:
        raise _RefusedError(f"damaged archive ({error})") from error
    return entries


def _check_names(names: list[str]) -> None:
    if len(set(names)) < len(names):
        raise _RefusedError("ambiguous archive: a member name stands twice")
    for name in names:
        if name.startswith("/") or "\\" in name or ".." in name.split("/"):
            raise _RefusedError(f"ambiguous archive: member name {name!r}")
    if any(name.split("/")[1:] in (["constants.pkl"], ["code", "__torch__.py"]) for name in names):
        raise _RefusedError(f"TorchScript archive, not weights; {_SAVE}")
    pickles = [name for name in names if name.split("/")[-1] == "data.pkl"]
    if len(pickles) != 1 or {name.split("/")[0] for name in names} != {pickles[0].split("/")[0]}:
        raise _RefusedError(f"ambiguous archive: {len(pickles)} members named data.pkl, expected one folder with one")


def _converted(content: bytes, key: str | None, size: int) -> bytes:
    """The state dict as safetensors."""
    # Importing torch takes a second, memory of its own and a folder to write to: only now, and outside the limits.
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    from safetensors.torch import save

    _limit(size)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    return save(_tensors(_choose(_load(content), key)))


def _load(content: bytes) -> Any:
    import torch

    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    # Hostile pickles make the unpickler raise nearly anything; none of it may pass for success.
    except Exception as error:
        reason = " ".join(str(error).split())
        if "allocate memory" in reason:
            raise MemoryError from error
        named = re.search(r"GLOBAL ([\w.]+)", reason)
        if not named:
            raise _RefusedError(f"damaged checkpoint ({type(error).__name__}: {reason[:200]})") from error
        # Any pickled module carries these attribute names; a file that only pretends to is refused just the same.
        if b"_parameters" in content and b"_modules" in content:
            raise _RefusedError(f"pickled module ({named[1]}), not weights; {_SAVE}") from error
        raise _RefusedError(f"contains code or Python objects ({named[1]}), refused; {_SAVE}") from error


def _choose(content: Any, key: str | None) -> "dict[str, torch.Tensor]":
    """The state dict inside what was loaded: under `key`, at the top, or under one of the usual names."""
    if key is not None:
        return _under(content, key)
    top: Mapping[Any, Any] = cast(Mapping[Any, Any], content) if isinstance(content, Mapping) else {}
    nests = {name: top.get(name) for name in _NESTS}
    candidates: list[Any] = [content, *nests.values()]
    found = [cast("dict[str, torch.Tensor]", state) for state in candidates if _is_state(state)]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(name for name, state in nests.items() if _is_state(state))
        raise _RefusedError(f"state dicts under {names}; say which as the teacher's key")
    raise _RefusedError(f"no state dict found: {_described(content)}; name where it is as the teacher's key")


def _under(content: Any, key: str) -> "dict[str, torch.Tensor]":
    found = content
    for part in key.split("."):
        if not isinstance(found, Mapping) or part not in found:
            raise _RefusedError(f"nothing under key {key!r}: {_described(content)}")
        found = cast(Mapping[Any, Any], found)[part]
    if not _is_state(found):
        raise _RefusedError(f"no state dict under key {key!r}: {_described(found)}")
    return found


def _is_state(value: Any) -> bool:
    import torch

    items = cast(Mapping[Any, Any], value).items() if isinstance(value, Mapping) else ()
    return bool(items) and all(isinstance(name, str) and isinstance(item, torch.Tensor) for name, item in items)


def _described(value: Any) -> str:
    if not isinstance(value, Mapping):
        return f"it holds a {type(value).__name__}"
    shown = [
        f"{str(name)[:40]} ({type(item).__name__})" for name, item in list(cast(Mapping[Any, Any], value).items())[:12]
    ]
    return f"it holds {', '.join(shown)}{', ...' if len(cast(Mapping[Any, Any], value)) > 12 else ''}"


def _tensors(state: "dict[str, torch.Tensor]") -> "dict[str, torch.Tensor]":
    """Plain contiguous copies, of tensors that own the memory they claim."""
    import torch

    for name, value in state.items():
        if len(name) > _MAX_NAME:
            raise _RefusedError(f"a tensor name of {len(name)} characters")
        if value.device.type != "cpu" or value.layout != torch.strided or value.is_quantized:
            raise _RefusedError(f"{name}: not a plain tensor ({value.device}, {value.layout}, {value.dtype})")
        claimed, owned = value.numel() * value.element_size(), value.untyped_storage().nbytes()
        if claimed > owned:
            raise _RefusedError(f"{name}: claims {claimed} bytes of a storage of {owned}")
    try:
        return {name: value.detach().clone(memory_format=torch.contiguous_format) for name, value in state.items()}
    except RuntimeError as error:
        raise MemoryError from error


if __name__ == "__main__":
    main()
