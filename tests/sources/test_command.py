"""The command a user types, against a hostile file and untrusted code, in little memory."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
GIVEN = {"key": None, "classes": 2, "channels": 1, "size": 8, "mean": [0.5], "std": [0.5]}
CODE = 'import pathlib\npathlib.Path("canary").touch()\ndef net(classes, channels, size): ...\n'


class Evil:
    def __reduce__(self):
        return os.system, ("touch canary",)


def run(folder, teacher, trust):
    params = {
        "seed": 0,
        "trust": trust,
        "compute": {"device": "cpu", "precision": "float32", "channels_last": False, "compile": "never"},
        "data": {"source": "none"},
        "teacher": GIVEN | teacher,
    }
    (folder / "params.yaml").write_text(json.dumps(params))
    return subprocess.run(
        [sys.executable, "-m", "stages.teacher"],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30)),
    )


@pytest.mark.parametrize(
    ("teacher", "trust", "reason"),
    [
        ({"source": "checkpoint", "path": "evil.pt", "arch": "resnet8"}, [], "evil.pt: contains code"),
        ({"source": "python", "path": "evil.py", "callable": "net", "checkpoint": None}, [], "evil.py: "),
        ({"source": "python", "path": "evil.py", "callable": "net", "checkpoint": None}, ["0" * 64], "evil.py: "),
    ],
)
def test_the_command_ends_with_one_line_and_status_two(tmp_path, teacher, trust, reason):
    torch.save({"state_dict": Evil()}, tmp_path / "evil.pt")
    (tmp_path / "evil.py").write_text(CODE)
    done = run(tmp_path, teacher, trust)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"error: {reason}")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "canary").exists()
    assert not (tmp_path / "data").exists()
