"""What a stage answers before its imports."""

import subprocess
import sys
from pathlib import Path

import pytest

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
