import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.core.errors import WorkError
from pipeline.core.files import canonical_json, sha256_bytes, sha256_file, write_atomic


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
