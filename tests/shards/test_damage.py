"""Every bit and every cut, with the sha256 of the manifest and without."""

import os
import re
from pathlib import Path

import pytest

from pipeline.core.errors import ShardError
from pipeline.shards.decode import decode_shard
from pipeline.shards.encode import Arrays
from pipeline.shards.reader import Dataset
from tests.shards.support import Data, draw_samples, encode_samples, shape_of, write_dataset

NAME = "train-00000.tar"


def flips(folder: Path, bits: int) -> None:
    dataset = Dataset.open(folder)
    entry = dataset.manifest.entries("train")[0]
    content = (folder / NAME).read_bytes()
    message = re.escape(str(folder / NAME))
    with (folder / NAME).open("r+b", buffering=0) as file:
        for place, value in enumerate(content):
            for bit in range(bits):
                os.pwrite(file.fileno(), bytes([value ^ 1 << (place + bit) % 8]), place)
                with pytest.raises(ShardError, match=message):
                    dataset.read(entry)
            os.pwrite(file.fileno(), bytes([value]), place)
    dataset.read(entry)


@pytest.mark.parametrize("encoding", ["png", "npy"])
def test_one_flipped_bit_in_any_byte_of_a_shard_is_an_error_naming_it(tmp_path: Path, encoding: str) -> None:
    write_dataset(tmp_path, Data(encoding=encoding))
    flips(tmp_path, bits=1)


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["png", "npy"])
def test_any_flipped_bit_of_a_shard_is_an_error_naming_it(tmp_path: Path, encoding: str) -> None:
    write_dataset(tmp_path, Data(encoding=encoding))
    flips(tmp_path, bits=8)


@pytest.mark.parametrize("encoding", ["png", "npy"])
def test_every_cut_of_a_shard_is_an_error_naming_it(tmp_path: Path, encoding: str) -> None:
    write_dataset(tmp_path, Data(encoding=encoding))
    dataset = Dataset.open(tmp_path)
    entry = dataset.manifest.entries("train")[0]
    path = tmp_path / NAME
    for length in reversed(range(path.stat().st_size)):
        os.truncate(path, length)
        with pytest.raises(ShardError, match=f"{NAME}: {length} bytes, the manifest says"):
            dataset.read(entry)


@pytest.mark.parametrize("addition", [b"\0", bytes(512), bytes(10240), b"x"])
def test_bytes_added_to_a_shard_are_an_error_naming_it(tmp_path: Path, addition: bytes) -> None:
    write_dataset(tmp_path, Data())
    with (tmp_path / NAME).open("ab") as file:
        file.write(addition)
    with pytest.raises(ShardError, match=NAME):
        Dataset.open(tmp_path).load("train")


def decoded(content: bytes, plan: Data, samples: int) -> Arrays | None:
    try:
        return decode_shard(content, shape_of(plan, samples), "s")
    except ShardError as error:
        return None if str(error).startswith("s: ") and str(error).isprintable() else pytest.fail(str(error))


def differing(one: Arrays, other: Arrays) -> set[str]:
    pairs = zip(Arrays._fields, one, other, strict=True)
    return {name for name, left, right in pairs if left is not None and left.tobytes() != right.tobytes()}


def places(content: bytes) -> list[int]:
    """Every byte that is not zero, and every seventh of the zeros, most of which are padding."""
    return [place for place, value in enumerate(content) if value or place % 7 == 0]


def test_without_any_sha256_only_numbers_can_change_unnoticed() -> None:
    # Headers, padding, npy headers, structure: all noticed. A number may turn into another valid number, no more.
    plan = Data(size=3, classes=12, targets=True)
    content = encode_samples(draw_samples(plan, 2, 0), "npy")
    good = decoded(content, plan, 2)
    assert good is not None
    silent: list[int] = []
    for place in places(content):
        damaged = bytearray(content)
        damaged[place] ^= 1 << (place * 3) % 8
        found = decoded(bytes(damaged), plan, 2)
        if found is not None:
            assert len(differing(good, found)) == 1
            silent.append(place)
    payload = 2 * (18 + 12 * 4 * 2 + 2)  # image, logits, target, up to two digits
    assert 0 < len(silent) <= payload


def test_without_any_sha256_no_bit_of_a_picture_can_change_unnoticed() -> None:
    plan = Data(encoding="png", size=3, classes=12)
    content = encode_samples(draw_samples(plan, 2, 0), "png")
    good = decoded(content, plan, 2)
    assert good is not None
    for place in places(content):
        for bit in (place % 8, (place + 3) % 8):
            damaged = bytearray(content)
            damaged[place] ^= 1 << bit
            found = decoded(bytes(damaged), plan, 2)
            assert found is None or differing(good, found) <= {"logits", "cls"}
