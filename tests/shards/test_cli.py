import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from pipeline.core.errors import run_or_exit
from pipeline.core.files import sha256_file
from pipeline.shards.__main__ import main
from pipeline.shards.reader import Dataset
from tests.shards.support import Data, forge, publish_dataset


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "out"
    publish_dataset(folder, Data("png", 1, 6, 4, targets=True, train=(5, 5, 5, 5), holdout=(5,)))
    return folder


class Command:
    """Run `python -m pipeline.shards ...` in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capfd = monkeypatch, capfd

    def __call__(self, *arguments: object) -> tuple[int, str, str]:
        self.monkeypatch.setattr(sys, "argv", ["shards", *map(str, arguments)])
        status = 0
        self.capfd.readouterr()
        try:
            run_or_exit(main)
        except SystemExit as end:
            status = int(end.code or 0)
        captured = self.capfd.readouterr()
        return status, captured.out, captured.err


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capfd)


def damaged(folder: Path, name: str, target: Path) -> Path:
    """A copy of a dataset with one bit of one file flipped."""
    target.mkdir()
    for path in folder.iterdir():
        content = bytearray(path.read_bytes())
        if path.name == name:
            content[len(content) // 2] ^= 1
        (target / path.name).write_bytes(content)
    return target


def test_verify_accepts_a_whole_dataset_and_prints_what_to_compare(command: Command, folder: Path):
    status, out, err = command("verify", folder)
    assert (status, err) == (0, "")
    assert "25 samples in 5 shards" in out
    assert sha256_file(folder / "manifest.json") in out


def test_verify_compares_with_what_the_sender_said(command: Command, folder: Path):
    expected = sha256_file(folder / "manifest.json")
    assert command("verify", folder, "--expect", expected)[0] == 0
    status, out, err = command("verify", folder, "--expect", "0" * 64)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert "manifest.json" in err
    assert expected in err


@pytest.mark.parametrize("name", ["train-00002.tar", "holdout-00000.tar", "manifest.json"])
def test_a_damaged_dataset_is_one_line_and_exit_status_two(command: Command, folder: Path, tmp_path: Path, name: str):
    copy = damaged(folder, name, tmp_path / "copy")
    status, out, err = command("verify", copy)
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert str(copy / name) in err


@pytest.mark.parametrize("verb", ["verify", "inspect", "preview"])
def test_a_folder_without_a_dataset_is_one_line_and_exit_status_two(command: Command, tmp_path: Path, verb: str):
    for nowhere in (tmp_path, tmp_path / "missing"):
        status, out, err = command(verb, nowhere)
        assert (status, out) == (2, "")
        assert err.startswith("error: ")
        assert str(nowhere) in err


@pytest.mark.parametrize("verb", ["verify", "inspect", "preview"])
def test_a_manifest_with_a_name_that_is_no_text_is_one_line(
    command: Command, folder: Path, tmp_path: Path, verb: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    copy = damaged(folder, "", tmp_path / "copy")
    path = copy / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b'"class 0"', b"0"))
    status, out, err = command(verb, copy)
    assert (status, out) == (2, "")
    assert err.startswith(f"error: {path}: 'teacher.classes.0'")
    assert err.count("\n") == 1


@pytest.mark.parametrize("verb", ["verify", "inspect", "preview"])
def test_a_small_dataset_that_claims_gigabytes_is_refused_at_once(
    command: Command, tmp_path: Path, verb: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    set_ = forge(tmp_path / "set", bytes(2_000_384), Data("png", 3, 8192), samples=10)
    start = time.process_time()
    status, out, err = command(verb, set_)
    assert (status, out) == (2, "")
    assert ": 2000384 bytes, the manifest says 2013" in err
    assert time.process_time() - start < 5


def test_verify_notices_another_card_or_contact_sheet(command: Command, folder: Path, tmp_path: Path):
    status, out, err = command("verify", damaged(folder, "README.md", tmp_path / "card"))
    assert (status, err) == (0, "")
    assert "README.md is not as it was published" in out  # a licence has to be filled in there
    status, out, err = command("verify", damaged(folder, "preview.png", tmp_path / "sheet"))
    assert (status, out) == (2, "")
    assert "preview.png: missing or damaged" in err
    (tmp_path / "sheet" / "preview.png").unlink()
    assert command("verify", tmp_path / "sheet")[0] == 2


def test_inspect_says_what_is_in_a_dataset(command: Command, folder: Path):
    status, out, err = command("inspect", folder)
    assert (status, err) == (0, "")
    manifest = Dataset.open(folder).manifest
    train = Dataset.open(folder).load("train")
    confidence = train.logits.double().softmax(1).max(1).values.mean().item()
    for text in (
        "noise, data-free", '{"beta": [1.0, 0.1], "steps": 3}', "lenet5, 4 classes", "1x6x6",
        "20 samples in 4 shards", "5 samples in 1 shards", ".logits.npy float32[4]",
        f"{manifest.teacher_agreement:.2%}", f"{confidence:.4f}",
    ):  # fmt: skip
        assert text in out, text
    bars = {line[:7]: line.count("#") for line in out.splitlines() if line.startswith("class ")}
    counts = {f"class {number}": count for number, count in enumerate(manifest.class_histogram)}
    assert max(bars.values()) == 40
    assert sorted(bars, key=bars.__getitem__) == sorted(counts, key=counts.__getitem__)


def test_inspect_of_a_damaged_dataset_fails(command: Command, folder: Path, tmp_path: Path):
    status, _, err = command("inspect", damaged(folder, "train-00001.tar", tmp_path / "copy"))
    assert status == 2
    assert "train-00001.tar" in err


def test_preview_draws_the_sheet_that_was_published(
    command: Command, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    assert command("preview", folder, "--out", tmp_path / "sheet.png")[0] == 0
    assert (tmp_path / "sheet.png").read_bytes() == (folder / "preview.png").read_bytes()
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.format == "PNG"
    monkeypatch.chdir(tmp_path)
    assert command("preview", folder)[1] == "out.png\n"
    assert (tmp_path / "out.png").is_file()


def test_preview_of_a_damaged_dataset_writes_nothing(command: Command, folder: Path, tmp_path: Path):
    status, _, err = command(
        "preview", damaged(folder, "train-00000.tar", tmp_path / "copy"), "--out", tmp_path / "sheet.png"
    )
    assert status == 2
    assert "train-00000.tar" in err
    assert not (tmp_path / "sheet.png").exists()


def test_prune_deletes_old_work_directories(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PHOTOGRAM_WORK_DIR", str(tmp_path / "work"))
    folders = [tmp_path / "work" / "synthetic" / "noise" / (letter * 16) for letter in "abc"]
    for age, folder in enumerate(folders):
        folder.mkdir(parents=True)
        (folder / "key.json").write_text("{}")
        os.utime(folder / "key.json", (1000 - age, 1000 - age))
    status, out, _ = command("prune", "--keep", 1)
    assert status == 0
    assert out.splitlines() == [f"deleted {path}" for path in folders[1:]]
    assert command("prune", "--keep", 1)[1] == "nothing to delete\n"
    assert [path for path in folders if path.exists()] == folders[:1]


def test_the_commands_are_explained_and_unknown_ones_refused(command: Command):
    status, out, _ = command("--help")
    assert status == 0
    for name in ("verify", "inspect", "preview", "prune"):
        assert name in out
    assert command("destroy")[0] == 2
    assert command()[0] == 2


def test_the_module_runs_as_a_command(folder: Path, tmp_path: Path):
    copy = damaged(folder, "train-00000.tar", tmp_path / "copy")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [sys.executable, "-m", "pipeline.shards", "verify", copy],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: ")
    assert "Traceback" not in ended.stderr
