import json
import os
import re
from pathlib import Path

import pytest

from pipeline.core.errors import ShardError
from pipeline.core.files import canonical_json
from pipeline.shards.manifest import (
    LIMITS,
    Limits,
    Manifest,
    fields_of,
    fits,
    manifest_bytes,
    parse_manifest,
    read_manifest,
)
from pipeline.shards.reader import Tally
from tests.shards.support import Data, entry_of, manifest_of, resealed, write_dataset


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_dataset(tmp_path / "set", Data())
    return tmp_path / "set"


def replace(folder: Path, content: bytes) -> None:
    (folder / "manifest.json").write_bytes(content)


def edited(folder: Path, **changes: object) -> bytes:
    """An edit by somebody who also sets the digest right."""
    return resealed(json.loads((folder / "manifest.json").read_bytes()) | changes)


def test_a_manifest_reads_back_as_it_was_written(folder: Path) -> None:
    manifest = read_manifest(folder)
    assert manifest_bytes(manifest) == (folder / "manifest.json").read_bytes()
    assert parse_manifest(manifest_bytes(manifest), "m") == manifest
    assert [entry.name for entry in manifest.entries("train")] == ["train-00000.tar", "train-00001.tar"]


def test_tuples_in_parameters_come_back_equal(folder: Path) -> None:
    manifest = read_manifest(folder)
    with_tuples = Manifest.model_validate(manifest.model_dump() | {"method_params": {"beta": (1.0, (0.5, 2))}})
    assert parse_manifest(manifest_bytes(with_tuples), "m") == with_tuples


def test_the_manifest_holds_no_time_no_host_and_only_known_keys(folder: Path) -> None:
    assert set(json.loads((folder / "manifest.json").read_bytes())) == {*Manifest.model_fields, "digest"}


def test_an_edit_of_any_bit_is_an_error_naming_the_file(folder: Path) -> None:
    content = (folder / "manifest.json").read_bytes()
    name = str(folder / "manifest.json")
    for place in range(len(content)):
        for bit in (place % 8, (place + 5) % 8):
            damaged = bytearray(content)
            damaged[place] ^= 1 << bit
            with pytest.raises(ShardError, match=re.escape(name)):
                parse_manifest(bytes(damaged), name)


def test_a_cut_anywhere_is_an_error_naming_the_file(folder: Path) -> None:
    content = (folder / "manifest.json").read_bytes()
    for length in range(len(content)):
        with pytest.raises(ShardError, match=r"^m: "):
            parse_manifest(content[:length], "m")


@pytest.mark.parametrize("addition", [b" ", b"\n", b"{}", b"\0", b"x"])
def test_added_bytes_are_an_error(folder: Path, addition: bytes) -> None:
    content = (folder / "manifest.json").read_bytes()
    for longer in (content + addition, addition + content):
        with pytest.raises(ShardError):
            parse_manifest(longer, "m")


def test_the_same_json_written_otherwise_is_an_error(folder: Path) -> None:
    content = (folder / "manifest.json").read_bytes()
    for other in (json.dumps(json.loads(content)).encode(), content.replace(b"lenet5", rb"l\u0065net5")):
        with pytest.raises(ShardError, match="edited or damaged"):
            parse_manifest(other, "m")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"seed": 8}, None),  # a forger who sets the digest right is stopped by the expected sha256 only
        ({"format_version": 2}, "format_version '2', this program reads 3"),
        ({"format_version": True}, "format_version"),
        ({"format_version": 1.0}, "format_version"),
        ({"extra": 1}, "extra"),
        ({"method": "../x"}, "method"),
        ({"method": "a\nb"}, "method"),
        ({"seed": 7.0}, "seed"),
        ({"seed": "7"}, "seed"),
        ({"seed": 2**64}, "seed"),
        ({"samples": {"train": 6, "holdout": 2}}, "samples.train is 6"),
        ({"samples": {"train": 0, "holdout": 2}}, "samples.train"),
        ({"class_histogram": [5] + [0] * 10}, "class_histogram"),
        ({"class_histogram": [4] + [0] * 9}, "class_histogram"),
        ({"class_histogram": [-1, 6] + [0] * 8}, "class_histogram"),
        ({"teacher_agreement": 1.5}, "teacher_agreement"),
        ({"encoding": "jpg"}, "encoding"),
        ({"encoding": "png"}, "fields"),
        ({"fields": {}}, "fields"),
        ({"shards": []}, "shards"),
    ],
)
def test_values_that_cannot_be_are_named(folder: Path, edit: dict[str, object], message: str | None) -> None:
    content = edited(folder, **edit)
    if message is None:
        assert parse_manifest(content, "m").seed == 8
        return
    with pytest.raises(ShardError, match=message) as caught:
        parse_manifest(content, "m")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "a/b",
        "/etc/passwd",
        "train-00000.tar\n",
        "train-00000.tar.gz",
        "train-0.tar",
        "holdout-00000.tar",
        "",
        ".",
    ],
)
def test_shard_names_are_plain(folder: Path, name: str) -> None:
    shards = json.loads((folder / "manifest.json").read_bytes())["shards"]
    shards[0]["name"] = name
    with pytest.raises(ShardError, match="shards"):
        parse_manifest(edited(folder, shards=shards), "m")


def test_shards_are_numbered_without_gaps_or_repeats(folder: Path) -> None:
    shards = json.loads((folder / "manifest.json").read_bytes())["shards"]
    gap = [shard | {"name": shard["name"].replace("train-00001", "train-00002")} for shard in shards]
    twice = [shard | {"name": shard["name"].replace("train-00001", "train-00000")} for shard in shards]
    for wrong in (gap, twice):
        with pytest.raises(ShardError, match="not numbered 0 to 1"):
            parse_manifest(edited(folder, shards=wrong), "m")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"format_version": 3, "a": NaN}', "nan has no place in JSON"),
        (b'{"format_version": 3, "a": -Infinity}', "-inf has no place in JSON"),
        (b'{"format_version": 3, "a": 1e999}', "inf has no place in JSON"),
        (b'{"format_version": 3, "a": 1, "a": 2}', "m: "),
        (b"[" * 100_000 + b"]" * 100_000, "nested too deep"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested too deep"),
        (b'{"format_version": 3, "method_params": {"a": ' + b"[" * 900 + b"]" * 900 + b"}}", "m: "),
        (b'{"a": ' + b"9" * 1_000_000 + b"}", "not JSON"),
        (b'{"a": 0.' + b"9" * 1_000_000 + b"}", "format_version 'None'"),
        (b"[1]", "expected an object, found list"),
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe{}", "not JSON"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        (b'{"format_version": 3, "method": "\\ud800"}', "m: "),
        (b"{}", "format_version 'None'"),
    ],
)
def test_json_that_is_no_manifest_is_one_short_line(content: bytes, message: str) -> None:
    with pytest.raises(ShardError, match=message) as caught:
        parse_manifest(content, "m")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_key_that_stands_twice_is_refused_even_with_one_value(folder: Path) -> None:
    content = (folder / "manifest.json").read_bytes()
    for twice in (content.replace(b'"seed": 7', b'"seed": 7,\n  "seed": 7'),
                  content.replace(b'"steps": 3', b'"steps": 2,\n    "steps": 3')):  # fmt: skip
        assert twice != content
        with pytest.raises(ShardError, match="edited or damaged"):
            parse_manifest(twice, "m")


@pytest.mark.parametrize("where", ["classes", "arch"])
@pytest.mark.parametrize("value", [0, None, [], {}, True, "", "a\nb", "\u202e", "x" * 301])
def test_a_name_that_is_no_printable_text_is_one_line(folder: Path, where: str, value: object) -> None:
    teacher = json.loads((folder / "manifest.json").read_bytes())["teacher"]
    names = [*teacher["classes"][:-1], value] if where == "classes" else value
    with pytest.raises(ShardError, match=rf"^m: 'teacher\.{where}") as caught:
        parse_manifest(edited(folder, teacher=teacher | {where: names}), "m")
    assert "\n" not in str(caught.value)


def test_more_values_than_any_manifest_has_are_refused() -> None:
    with pytest.raises(ShardError, match=r"more than a manifest has: .* 100 values"):
        parse_manifest(b'{"a": [' + b"0," * 200 + b"0]}", "m", Limits(manifest_values=100))


def test_the_largest_manifest_that_may_be_written_may_be_read() -> None:
    """So many shards as names allow, and as many classes."""
    tally = Tally(10)
    tally.histogram[0] = tally.agreed = 100_000
    entry = entry_of(b"x", "train", 0, 1).model_copy(update={"samples": 100_000, "bytes": 2 << 30})
    few = manifest_bytes(manifest_of(Data(train=(100_000,), holdout=()), [entry], tally)).count
    shards, classes = LIMITS.shards, LIMITS.classes
    one = len(canonical_json([entry.model_dump()])) + 20
    assert shards * one + classes * 2 * 40 < LIMITS.manifest_bytes
    values = sum(map(few, (b",", b"[", b"{")))
    assert shards * 6 + classes * 2 + values + LIMITS.attachments * 20 < LIMITS.manifest_values


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ((1000, 3, 32, 10, "png", False), None),
        ((LIMITS.shard_samples, 1, 28, 10, "png", True), None),
        ((100_001, 1, 28, 10, "png", False), "100001 samples in a shard; at most 100000 are read"),
        ((1, 65, 8, 10, "npy", False), "65 channels; at most 64"),
        ((1, 1, 10_000, 10, "png", False), "10000 pixels of height and width; at most 8192"),
        ((1, 1, 8, 100_001, "png", False), "100001 classes"),
        ((10, 2, 8, 10, "png", False), "png cannot hold 2 channels"),
        ((3000, 3, 1024, 10, "png", False), "3000 samples in a shard take 94"),
        ((1, 1, 8, 10, "png", False, 100_001), "100001 shards"),
    ],
)
def test_what_a_reader_would_refuse_is_known_before_it_is_made(asked: tuple, reason: str | None) -> None:
    found = fits(*asked)
    assert found is None if reason is None else found is not None and found.startswith(reason)


def test_a_manifest_over_the_size_cap_is_not_read(folder: Path) -> None:
    with (folder / "manifest.json").open("r+b") as file:
        file.truncate(1 << 40)  # sparse
    with pytest.raises(ShardError, match=r"manifest\.json: 1099511627776 bytes, expected at most 67108864"):
        read_manifest(folder)


def test_a_missing_manifest_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"manifest\.json: no such file"):
        read_manifest(tmp_path)
    with pytest.raises(ShardError, match="not a dataset folder"):
        read_manifest(tmp_path / "nowhere")


def test_a_manifest_that_is_a_link_a_fifo_or_a_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    path = folder / "manifest.json"
    path.rename(tmp_path / "elsewhere.json")
    path.symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(ShardError, match="a link, expected a regular file"):
        read_manifest(folder)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ShardError, match="not a regular file"):
        read_manifest(folder)
    path.unlink()
    path.mkdir()
    with pytest.raises(ShardError, match="not a regular file"):
        read_manifest(folder)


def test_png_is_for_one_or_three_channels(tmp_path: Path) -> None:
    write_dataset(tmp_path, Data(channels=2))
    manifest = read_manifest(tmp_path)
    with pytest.raises(ValueError, match="png cannot hold 2 channels"):
        Manifest.model_validate(
            manifest.model_dump() | {"encoding": "png", "fields": fields_of("png", 2, 4, 10, soft_targets=False)}
        )
