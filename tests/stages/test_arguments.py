"""What a stage answers before its imports."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.core.errors import ParamsError
from pipeline.grid import Cell
from stages import arguments

STAGES = ["check", "code", "teacher", "synthesize", "distill", "evaluate", "report"]


def call(root: Path, *arguments: str) -> tuple[int, str, bool]:
    """Exit status, what was said, and whether torch was imported."""
    command = [sys.executable, "-X", "importtime", "-m", *arguments]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    said = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    return done.returncode, "\n".join([done.stdout, *said]), "| torch\n" in done.stderr


@pytest.mark.parametrize("stage", STAGES)
def test_help_and_wrong_arguments_are_answered_without_torch(project_root: Path, stage: str) -> None:
    for options, status in ((["--help"], 0), (["--no-such-option"], 2)):
        code, said, torch = call(project_root, f"stages.{stage}", *options)
        assert (code, torch) == (status, False), said
        assert f"usage: python -m stages.{stage}" in said
        assert "Traceback" not in said


def test_hostile_names_are_refused_before_torch_is_imported(tmp_path: Path, project_root: Path) -> None:
    text = (project_root / "params.yaml").read_text()
    before, _, after = text.partition("  seeds: [")
    (tmp_path / "params.yaml").write_text(f'{before}  seeds: ["0; touch OWNED #", {after}')
    for package in ("pipeline", "stages"):
        (tmp_path / package).symlink_to(project_root / package)
    code, said, torch = call(tmp_path, "stages.code")
    assert (code, torch) == (2, False)
    assert said.strip().startswith("error: matrix.seeds.0: '0; touch OWNED #': ")
    assert len(said.strip().splitlines()) == 1


def test_values_come_from_the_name_of_the_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_STAGE", "../dvc.yaml:reference@real-small-3")
    given = arguments("distill", ["{}_labels", "{}", "{}"])
    assert (given.row, given.student, given.seed) == ("real_labels", "small", 3)
    monkeypatch.setenv("DVC_STAGE", "evaluate_proxy@zskt")
    assert arguments("evaluate", ["--proxy", "{}"]).proxy == "zskt"
    assert arguments("distill", ["zskd", "small", "0"]).row == "zskd"


@pytest.mark.parametrize("stage", ["", "distill", "distill@zskd-small", "distill@zskd-small-0; touch OWNED-1"])
def test_a_stage_of_another_name_is_refused(monkeypatch: pytest.MonkeyPatch, capsys, stage: str) -> None:
    monkeypatch.setenv("DVC_STAGE", stage)
    with pytest.raises(SystemExit) as caught:
        arguments("distill", ["{}", "{}", "{}"])
    assert caught.value.code == 2
    assert "in the name of DVC's stage; there are" in capsys.readouterr().err


@pytest.mark.parametrize("names", [["../up", "small", "0"], ["zskd", "a/b", "0"], ["zskd", "small", "-1"]], ids=str)
def test_a_cell_given_by_hand_has_plain_names(names: list[str]) -> None:
    with pytest.raises(ParamsError, match=r"^cell\.(dataset|student|seed): "):
        Cell.parse(names[0], names[1], int(names[2]))
