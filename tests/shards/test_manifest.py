import hashlib
import json
import os
import re
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import ShardError
from pipeline.core.files import canonical_json
from pipeline.shards.manifest import (
    LIMITS,
    Limits,
    Manifest,
    Shards,
    Split,
    fields_of,
    fits,
    manifest_bytes,
    parse_manifest,
    read_manifest,
)
from pipeline.shards.reader import Tally
from tests.shards.support import Data, manifest_of, resealed, write_dataset


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
        ({"shards": None}, "shards"),
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


NONE = {"train": [], "holdout": []}
RUN = {"samples": 3, "sha256": ["0" * 64]}


@pytest.mark.parametrize(
    ("shards", "message"),
    [
        (NONE, "'shards.train'"),
        ({"train": [RUN]}, "'shards.holdout'"),
        ({"train": [RUN], "holdout": [], "test": [RUN]}, "'shards.test'"),
        ({"train": [RUN, RUN], "holdout": []}, "shards.train has a run of shards in two pieces"),
        ({"train": [{"samples": 3, "sha256": []}], "holdout": []}, "'shards.train.0.sha256'"),
        ({"train": [{"samples": 0, "sha256": ["0" * 64]}], "holdout": []}, "'shards.train.0.samples'"),
        ({"train": [{"samples": 3, "sha256": ["0" * 63]}], "holdout": []}, "'shards.train.0.sha256.0'"),
        ({"train": [{"samples": 3, "sha256": ["../x"]}], "holdout": []}, "'shards.train.0.sha256.0'"),
        ({"train": [RUN | {"name": "../x"}], "holdout": []}, "'shards.train.0.name'"),
        ({"train": [{"samples": 100_001, "sha256": ["0" * 64]}], "holdout": []}, "'shards.train.0.samples'"),
    ],
)
def test_shards_are_runs_of_hashes_and_nothing_else(folder: Path, shards: dict[str, object], message: str) -> None:
    with pytest.raises(ShardError, match=re.escape(message)):
        parse_manifest(edited(folder, shards=shards), "m")


def test_names_and_lengths_follow_from_number_and_samples(folder: Path) -> None:
    for entry in read_manifest(folder).every_entry:
        content = (folder / entry.name).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (entry.bytes, entry.sha256)


@given(st.lists(st.tuples(st.sampled_from(["train", "holdout"]), st.integers(1, 3)), max_size=12))
def test_runs_hold_every_file_in_its_order(files: list[tuple[Split, int]]) -> None:
    listed = [("train", 9, f"{0:064}"), *((*file, f"{number:064}") for number, file in enumerate(files, 1))]
    shards = Shards.of(listed)
    for split in ("train", "holdout"):
        again = [(split, run.samples, sha256) for run in shards.runs(split) for sha256 in run.sha256]
        assert again == [file for file in listed if file[0] == split]
        assert all(one.samples != other.samples for one, other in pairwise(shards.runs(split)))


@pytest.mark.slow
def test_a_million_shards_are_read_and_no_more(folder: Path) -> None:
    """What the writer may write, the reader takes."""
    manifest = read_manifest(folder)
    for number in (LIMITS.shards, LIMITS.shards + 1):
        shards = {"train": [{"samples": 1, "sha256": [f"{index:064x}" for index in range(number)]}], "holdout": []}
        histogram = [number] + [0] * 9
        totals = {"train": number, "holdout": 0}
        content = edited(folder, shards=shards, samples=totals, class_histogram=histogram)
        if number > LIMITS.shards:
            with pytest.raises(ShardError, match="'shards"):
                parse_manifest(content, "m")
            continue
        again = parse_manifest(content, "m")
        assert again.entries("train")[-1].name == "train-999999.tar"
        assert again.entries("train")[123_456][:3] == ("train", 123_456, 1)
        assert manifest_bytes(again) == content
        assert manifest.fields == again.fields


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
    few = manifest_bytes(manifest_of(Data(train=(100_000,), holdout=()), [("train", 100_000, "0" * 64)], tally)).count
    shards, classes = LIMITS.shards, LIMITS.classes
    one = len(canonical_json({"a": [{"b": ["0" * 64]}]})) - len(canonical_json({"a": [{"b": []}]}))
    assert shards * one + classes * 2 * 40 < LIMITS.manifest_bytes
    values = sum(map(few, (b",", b"[", b"{")))
    assert shards + classes * 2 + values + LIMITS.attachments * 20 < LIMITS.manifest_values


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
        ((1, 1, 8, 10, "png", False, 1_000_001), "1000001 shards"),
    ],
)
def test_what_a_reader_would_refuse_is_known_before_it_is_made(asked: tuple, reason: str | None) -> None:
    found = fits(*asked)
    assert found is None if reason is None else found is not None and found.startswith(reason)


def test_a_manifest_over_the_size_cap_is_not_read(folder: Path) -> None:
    with (folder / "manifest.json").open("r+b") as file:
        file.truncate(1 << 40)  # sparse
    with pytest.raises(ShardError, match=r"manifest\.json: 1099511627776 bytes, expected at most 134217728"):
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
