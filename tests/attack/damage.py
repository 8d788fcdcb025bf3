"""What happens to files: a bit flips, a block is lost, a file is cut, goes on, vanishes, or is another's."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

__all__ = ["damage"]


def damage(files: list[Path], rng: random.Random, *, lost: bool = True) -> str:
    """Damage one of the files; returns what was done to which. Without `lost` something stays in its place."""
    kinds: dict[str, Callable[[Path, list[Path], random.Random], None]] = {
        "a bit flipped": _flip,
        "64 bytes zeroed": _zero,
        "cut": _cut,
        "random bytes at the end": _append,
        "a block of its own repeated": _repeat,
        "random bytes": _replace,
        "emptied": lambda path, _files, _rng: path.write_bytes(b""),
        "gone": lambda path, _files, _rng: path.unlink(),
        "a folder in its place": _folder,
        "another file's content": _other,
    }
    weights = [6, 3, 3, 2, 2, 1, 1, 1, 1, 2]
    if not lost:
        weights[list(kinds).index("gone")] = 0
    path = rng.choice(files)
    kind = rng.choices(list(kinds), weights)[0]
    kinds[kind](path, files, rng)
    return f"{kind}: {path.name}"


def _flip(path: Path, _: list[Path], rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    if content:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def _zero(path: Path, _: list[Path], rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    start = rng.randrange(len(content) or 1)
    content[start : start + 64] = bytes(len(content[start : start + 64]))
    path.write_bytes(content)


def _cut(path: Path, _: list[Path], rng: random.Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: rng.randrange(len(content) or 1)])


def _append(path: Path, _: list[Path], rng: random.Random) -> None:
    with path.open("ab") as file:
        file.write(rng.randbytes(rng.choice([1, 512, 4096])))


def _repeat(path: Path, _: list[Path], rng: random.Random) -> None:
    content = path.read_bytes()
    start, length = rng.randrange(len(content) or 1), rng.choice([1, 16, 512])
    path.write_bytes(content[: start + length] + content[start:])


def _replace(path: Path, _: list[Path], rng: random.Random) -> None:
    path.write_bytes(rng.randbytes(path.stat().st_size))


def _folder(path: Path, _: list[Path], _rng: random.Random) -> None:
    path.unlink()
    path.mkdir()


def _other(path: Path, files: list[Path], rng: random.Random) -> None:
    alike = [file for file in files if file != path and file.suffix == path.suffix]
    if alike:
        shutil.copyfile(rng.choice(alike), path.with_name(".other"))
        path.with_name(".other").rename(path)
    else:
        path.write_bytes(b"")
