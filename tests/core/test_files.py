import csv
import errno
import hashlib
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.core.errors import WorkError
from pipeline.core.files import (
    canonical_json,
    csv_bytes,
    make_folder,
    read_sealed,
    sealed,
    sha256_bytes,
    sha256_file,
    sweep,
    write_atomic,
    write_output,
)
from pipeline.core.params import Block


def test_a_file_is_replaced_whole_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    write_atomic(path, b"first")
    write_atomic(path, b"second")
    assert path.read_bytes() == b"second"
    assert [item.name for item in tmp_path.iterdir()] == ["a.bin"]


@pytest.mark.parametrize("point", ["opened", "written", "synced", "replaced"])
def test_a_power_cut_at_any_point_leaves_the_old_or_the_new_file(
    tmp_path: Path, project_root: Path, point: str
) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old" * 1000)
    program = "import sys; from pathlib import Path; from pipeline.core.files import write_atomic as write\n"
    program += "write(Path(sys.argv[1]), b'new' * 1000)"
    environment = os.environ | {"PHOTOGRAM_FAULT": f"write:{point}:1"}
    ended = subprocess.run([sys.executable, "-c", program, str(path)], cwd=project_root, env=environment, check=False)
    assert ended.returncode == 137
    assert path.read_bytes() == (b"new" if point == "replaced" else b"old") * 1000


def test_a_full_disk_is_one_clear_error_and_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WorkError, match=r"cannot write .*a\.bin \(3 bytes\): No space left on device; free some space"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert [item.name for item in tmp_path.iterdir()] == ["a.bin"]


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(WorkError, match="nowhere"):
        write_atomic(tmp_path / "nowhere" / "a.bin", b"x")


def test_hashes_agree_with_the_standard_library(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000
    (tmp_path / "a.bin").write_bytes(content)
    assert sha256_bytes(content) == sha256_file(tmp_path / "a.bin") == hashlib.sha256(content).hexdigest()


def test_equal_values_have_equal_json_whatever_their_order() -> None:
    assert canonical_json({"b": (1, 2.0), "a": "é"}) == canonical_json({"a": "é", "b": [1, 2.0]})
    assert canonical_json({"b": (1, 2.0), "a": "é"}).decode() == '{\n  "a": "é",\n  "b": [\n    1,\n    2.0\n  ]\n}\n'


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_json_has_no_place_for_what_is_not_finite(value: float) -> None:
    with pytest.raises(ValueError, match="no place in JSON"):
        canonical_json({"a": [value]})


def test_rows_come_back_as_they_were_whatever_stands_in_them() -> None:
    rows = [{"name": 'a "quoted", text', "loss": 0.1 + 0.2}, {"name": "two\nlines", "loss": 1e-300}]
    content = csv_bytes(rows)
    found = list(csv.DictReader(io.StringIO(content.decode(), newline="")))
    assert [(row["name"], float(row["loss"])) for row in found] == [(row["name"], row["loss"]) for row in rows]
    assert b"\r" not in content


def test_columns_stand_in_the_order_asked_for_and_else_in_that_of_the_first_row() -> None:
    rows = [{"b": 1, "a": 2}, {"a": 3, "b": 4}]
    assert csv_bytes(rows) == b"b,a\n1,2\n4,3\n"
    assert csv_bytes(rows, ("a", "b")) == b"a,b\n2,1\n3,4\n"
    assert csv_bytes([], ("a", "b")) == b"a,b\n"


def test_a_value_without_a_column_is_refused() -> None:
    with pytest.raises(ValueError, match="c"):
        csv_bytes([{"a": 1}, {"a": 2, "c": 3}])


@pytest.mark.parametrize(
    ("number", "cure"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "free some space"),
        (errno.EACCES, "check who owns it"),
        (errno.EROFS, "nothing can be written to that file system"),
        (errno.EMFILE, "raise the limit on open files"),
        (errno.EIO, "check the disk"),
    ],
)
def test_the_cure_is_that_of_the_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, cure: str) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refuse)
        with pytest.raises(WorkError, match=cure) as caught:
            write_atomic(tmp_path / "a", b"x")
    assert ("free some space" in str(caught.value)) == (number in {errno.ENOSPC, errno.EDQUOT})
    assert str(caught.value).endswith(", then run the same command again")


def test_a_folder_where_none_can_be_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(WorkError, match=r"cannot make folder .*file.*; .*move it away"):
            make_folder(path)


def test_a_file_that_a_killed_run_left_under_the_same_process_id_is_in_nobodys_way(tmp_path: Path) -> None:
    """In containers every run has the same process id."""
    (tmp_path / f".a.json.{os.getpid()}.tmp").write_bytes(b"half")
    write_atomic(tmp_path / "a.json", b"whole")
    write_atomic(tmp_path / "b.json", b"whole")
    write_output(tmp_path / "a.json", b"again")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a.json": b"again", "b.json": b"whole"}


def test_leftovers_are_swept_of_one_file_or_of_a_folder(tmp_path: Path) -> None:
    ours = tmp_path / ".a[1].json.0a1b.tmp"
    others = [tmp_path / ".b.json.0a1b.tmp", tmp_path / ".a1.json.0a1b.tmp"]
    kept = [tmp_path / ".lock", tmp_path / "a.tmp", tmp_path / "x"]
    for path in (ours, *others, *kept):
        path.write_bytes(b"")
    sweep(tmp_path, "a[1].json")
    assert sorted(tmp_path.iterdir()) == sorted([*others, *kept])
    sweep(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(kept)
    sweep(tmp_path / "nowhere")


class Note(Block):
    text: str
    number: float


def test_a_sealed_record_comes_back_or_not_at_all(tmp_path: Path) -> None:
    path, note = tmp_path / "note.json", Note(text="é", number=0.1)
    assert read_sealed(Note, path) is None
    path.write_bytes(sealed(note))
    assert read_sealed(Note, path) == note
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        assert read_sealed(Note, path) is None
