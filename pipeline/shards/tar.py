"""A strict USTAR reader over bytes: regular files, one way of writing each field, nothing skipped, nothing guessed."""

import re
from collections.abc import Collection, Iterator
from itertools import groupby
from typing import NamedTuple

from pipeline.core.errors import ShardError

__all__ = ["BLOCK", "MODE", "Member", "RawSample", "members", "samples"]

BLOCK = 512
MODE = 0o644  # that we give to every member
_ZEROS = bytes(BLOCK)
_NAME = re.compile(rb"[A-Za-z0-9_-]{1,64}(\.[a-z0-9]{1,16}){1,2}")
_MAGIC = b"ustar\x0000"

# offset, length and meaning of the octal fields that say nothing to us but must be well formed
_OCTAL = ((100, 8, "mode"), (108, 8, "uid"), (116, 8, "gid"), (136, 12, "mtime"))
_EMPTY = ((157, 100, "link name"), (265, 64, "user and group"), (345, 167, "name prefix"))
_DEVICES = (bytes(16), b"0000000\x00" * 2)


class Member(NamedTuple):
    """One file of the archive; the payload is a view, nothing is copied."""

    name: str
    payload: memoryview


class RawSample(NamedTuple):
    """The members that share a key."""

    key: str
    payloads: dict[str, memoryview]  # by extension


def samples(content: bytes | bytearray, where: str, extensions: Collection[str], count: int) -> Iterator[RawSample]:
    """Group an archive's members into samples.

    Args:
        content: the archive.
        where: its name, for messages.
        extensions: the members that every sample has, each once and adjacent, in any order.
        count: how many samples there are.

    Raises:
        ShardError: other members, missing or duplicate ones, another count, or no USTAR archive; names the member.
    """
    seen: set[str] = set()
    for key, group in groupby(members(content, where), lambda member: member.name.partition(".")[0]):
        if key in seen:
            raise ShardError(f"{where}: {key}: duplicate member: the sample was there before")
        if len(seen) == count:
            raise ShardError(f"{where}: {key}: more than the {count} samples that the manifest says")
        seen.add(key)
        yield _sample(key, group, where, extensions)
    if len(seen) != count:
        raise ShardError(f"{where}: {len(seen)} samples, the manifest says {count}")


def _sample(key: str, group: Iterator[Member], where: str, extensions: Collection[str]) -> RawSample:
    payloads: dict[str, memoryview] = {}
    for name, payload in group:
        extension = name.partition(".")[2]
        if extension not in extensions:
            wanted = ", ".join(f".{extension}" for extension in sorted(extensions))
            raise ShardError(f"{where}: {name}: member type .{extension} not allowed; samples have {wanted}")
        if extension in payloads:
            raise ShardError(f"{where}: {name}: duplicate member")
        payloads[extension] = payload
    missing = sorted(set(extensions) - payloads.keys())
    if missing:
        raise ShardError(f"{where}: sample {key}: missing {', '.join(f'.{name}' for name in missing)}")
    return RawSample(key, payloads)


def members(content: bytes | bytearray, where: str) -> Iterator[Member]:
    """Walk the members of an archive.

    Raises:
        ShardError: anything but plain USTAR with regular files; names the member.
    """
    view = memoryview(content).toreadonly()
    if len(view) % BLOCK:
        raise ShardError(f"{where}: {len(view)} bytes are not a multiple of {BLOCK}: cut short or not USTAR")
    offset = 0
    while True:
        header = bytes(view[offset : offset + BLOCK])
        if len(header) < BLOCK:
            raise ShardError(f"{where}: ends without the two zero blocks of a whole archive")
        if header == _ZEROS:
            break
        name, size = _header(header, where, offset)
        start, stop = offset + BLOCK, offset + BLOCK + size
        offset = stop + -size % BLOCK
        if offset > len(view):
            raise ShardError(f"{where}: {name}: {size} bytes claimed, the archive ends before")
        if any(view[stop:offset]):
            raise ShardError(f"{where}: {name}: padding is not zero")
        yield Member(name, view[start:stop])
    if len(view) - offset < 2 * BLOCK or any(view[offset:]):
        raise ShardError(f"{where}: after the last member: expected two zero blocks and nothing but zeros")


def _header(header: bytes, where: str, offset: int) -> tuple[str, int]:
    """Name and size; every other field must be as a plain regular file has it."""
    if header[257:262] != _MAGIC[:5]:
        raise ShardError(f"{where}: not USTAR at byte {offset}")
    shown = repr(header[:100].rstrip(b"\0"))[1:]
    place = f"{where}: {shown}"
    written = re.fullmatch(rb"([0-7]{6})\x00 ", header[148:156])
    if written is None or int(written[1], 8) != sum(header) - sum(header[148:156]) + 8 * 32:
        raise ShardError(f"{place}: header checksum differs at byte {offset}")
    if header[156:157] != b"0":
        raise ShardError(f"{place}: member type {repr(header[156:157])[1:]} not allowed: regular files only")
    if header[257:265] != _MAGIC:
        raise ShardError(f"{place}: not USTAR")
    return _name(header, place), _fields(header, place)


def _name(header: bytes, place: str) -> str:
    raw = header[:100].rstrip(b"\0")
    if _NAME.fullmatch(raw) is None:
        raise ShardError(f"{place}: member name not allowed")
    return raw.decode("ascii")


def _fields(header: bytes, place: str) -> int:
    for start, length, what in _OCTAL:
        _octal(header[start : start + length], what, place)
    for start, length, what in _EMPTY:
        if header[start : start + length] != bytes(length):
            raise ShardError(f"{place}: {what} not allowed")
    if header[329:345] not in _DEVICES:
        raise ShardError(f"{place}: device numbers not allowed")
    return _octal(header[124:136], "size", place)


def _octal(field: bytes, what: str, place: str) -> int:
    if re.fullmatch(rb"[0-7]+\x00", field) is None:
        raise ShardError(f"{place}: {what} field not allowed: expected octal digits")
    return int(field[:-1], 8)
