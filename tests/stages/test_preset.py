import shutil
import subprocess
from pathlib import Path

import pytest

from pipeline.core.errors import ParamsError
from pipeline.core.params import read_params
from stages.preset import describe, put_in_place


def git(*arguments: str) -> None:
    identity = ["-c", "user.name=Test", "-c", "user.email=test@example.invalid"]
    subprocess.run(["git", *identity, *arguments], check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path: Path, project_root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(project_root / "presets", tmp_path / "presets")
    shutil.copy(project_root / "presets" / "digits.yaml", tmp_path / "params.yaml")
    monkeypatch.chdir(tmp_path)
    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "start")
    return tmp_path


def test_the_default_is_the_digits_preset(project_root: Path) -> None:
    assert (project_root / "params.yaml").read_bytes() == (project_root / "presets" / "digits.yaml").read_bytes()


def test_every_preset_is_complete(project_root: Path) -> None:
    blocks = {path.stem: list(read_params(path)) for path in (project_root / "presets").glob("*.yaml")}
    assert set(blocks) >= {"digits", "mnist", "cifar10", "cifar10_cpu", "imagenet"}
    assert all(keys == blocks["digits"] for keys in blocks.values())


def test_a_preset_is_put_in_place(checkout: Path) -> None:
    put_in_place("mnist", force=False)
    assert (checkout / "params.yaml").read_bytes() == (checkout / "presets" / "mnist.yaml").read_bytes()


def test_going_from_preset_to_preset_is_allowed(checkout: Path) -> None:
    for name in ("mnist", "cifar10", "imagenet", "digits"):
        put_in_place(name, force=False)
    assert (checkout / "params.yaml").read_bytes() == (checkout / "presets" / "digits.yaml").read_bytes()


def test_edits_that_are_not_committed_are_kept_unless_forced(checkout: Path) -> None:
    edited = (checkout / "params.yaml").read_text().replace("seed: 0", "seed: 1")
    (checkout / "params.yaml").write_text(edited)
    with pytest.raises(ParamsError, match=r"edits that would be lost.*--force"):
        put_in_place("mnist", force=False)
    assert (checkout / "params.yaml").read_text() == edited
    put_in_place("mnist", force=True)
    assert (checkout / "params.yaml").read_text() != edited


def test_committed_edits_can_be_had_again_and_are_replaced(checkout: Path) -> None:
    (checkout / "params.yaml").write_text((checkout / "params.yaml").read_text().replace("seed: 0", "seed: 1"))
    git("commit", "-q", "-am", "another seed")
    put_in_place("mnist", force=False)
    assert (checkout / "params.yaml").read_bytes() == (checkout / "presets" / "mnist.yaml").read_bytes()


def test_edits_are_kept_where_there_is_no_git_repository_either(checkout: Path) -> None:
    shutil.rmtree(checkout / ".git")
    (checkout / "params.yaml").write_text("seed: 7\n")
    with pytest.raises(ParamsError, match="edits that would be lost"):
        put_in_place("mnist", force=False)


def test_a_missing_parameter_file_is_simply_made(checkout: Path) -> None:
    (checkout / "params.yaml").unlink()
    put_in_place("digits", force=False)
    assert (checkout / "params.yaml").exists()


def test_an_unknown_preset_is_answered_with_the_known_ones(checkout: Path) -> None:
    with pytest.raises(
        ParamsError, match="svhn: no such preset; there are cifar10, cifar10_cpu, digits, imagenet, mnist"
    ):
        put_in_place("svhn", force=True)


def test_the_list_shows_each_preset_with_its_first_line(checkout: Path) -> None:
    lines = describe().splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["cifar10", "cifar10_cpu", "digits", "imagenet", "mnist"]
    assert all(len(line.split()) > 5 for line in lines[1:])
