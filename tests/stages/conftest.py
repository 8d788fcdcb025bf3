import copy
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline.core.params import read_params
from stages.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
TRACER = '''
"""Note which modules of the project a stage of DVC has imported by its end."""
import atexit, os, sys

def note():
    main = getattr(sys.modules.get("__main__"), "__spec__", None)
    stage = os.environ.get("DVC_STAGE")
    if stage is None or main is None or not main.name.startswith("stages."):
        return
    names = {name for name in sys.modules if name.split(".")[0] in ("pipeline", "stages")}
    line = "\\n".join(sorted(names | {main.name}))
    with open(os.path.join(os.environ["TRACES"], stage), "w") as file:
        file.write(line)

atexit.register(note)
'''


def tiny(params: dict[str, Any]) -> dict[str, Any]:
    """The default parameters, cut down until a run of everything takes as long as starting Python."""
    short = {"epochs": 1, "steps_per_epoch": 2, "batch": 8}
    for block in (params["teacher"]["recipe"], params["distill"]):
        block.update(short)
    params["few_shot"] |= {"per_class": 1, "epochs": 1, "steps_per_epoch": 2}
    params["shards"] |= {"size": 20, "holdout": 20}
    params["evaluate"]["belief"] |= {"images": 2, "steps": 2}
    for method in params["methods"].values():
        method["count"] = 20
        if "steps" in method:
            method |= {"steps": 2, "batch": 20}
    params["teacher"]["arch"] = "lenet5"  # not an architecture of the students' file `resnet`
    params["matrix"] = {
        "methods": ["noise"],
        "references": [],
        "few_shot": [],
        "students": ["small"],
        "seeds": [0],
        "proxies": [],
    }
    params["students"] = {
        "small": {"arch": "lenet5_half", "labels": "stored"},
        "other": {"arch": "resnet8", "labels": "live"},
    }
    return params


class Project:
    """A copy of this checkout with tiny parameters, as its own git and DVC repository."""

    def __init__(self, root: Path) -> None:
        self.root = root / "project"
        self.traces = root / "traces"
        self.traces.mkdir(parents=True)
        (root / "tracer").mkdir()
        (root / "tracer" / "sitecustomize.py").write_text(TRACER)
        self.environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(root / "tracer"),
            "TRACES": str(self.traces),
            "OMP_NUM_THREADS": "1",
            "PHOTOGRAM_WORKERS": "1",
            "DVC_SITE_CACHE_DIR": str(root / "site"),
            "DVC_GLOBAL_CONFIG_DIR": str(root / "config"),
            "GIT_CONFIG_GLOBAL": os.devnull,
        }
        self._copy()
        self.params = tiny(read_params(self.root / "presets" / "digits.yaml"))
        self.write_params()
        self.git("init", "-q")
        self.git("add", "-A")
        self.git("commit", "-q", "-m", "start")

    def run(self, *command: str, expect: int = 0) -> str:
        """Run a command in the project; its output, stderr included."""
        done = subprocess.run(
            command, cwd=self.root, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )
        output = done.stdout.decode()
        assert done.returncode == expect, output
        return output

    def git(self, *arguments: str) -> str:
        return self.run("git", "-c", "user.name=Test", "-c", "user.email=test@example.invalid", *arguments)

    def repro(self, *arguments: str) -> set[str]:
        """Run `dvc repro`; the names of the stages whose command was run, `code` apart."""
        output = self.run("dvc", "repro", *arguments)
        return set(re.findall(r"^Running stage '([^']+)'", output, flags=re.MULTILINE)) - {"code"}

    def write_params(self) -> None:
        """Write `self.params` to params.yaml."""
        YAML(typ="safe", pure=True).dump(self.params, self.root / "params.yaml")

    def edit(self, file: str, change: Callable[[str], str]) -> None:
        """Change a file's text."""
        path = self.root / file
        before = path.read_text()
        after = change(before)
        assert before != after, f"the edit of {file} does nothing"
        path.write_text(after)

    def bytes_of(self, folder: str) -> dict[str, bytes]:
        """Every file below a folder."""
        files = sorted(path for path in (self.root / folder).rglob("*") if path.is_file())
        return {str(path.relative_to(self.root / folder)): path.read_bytes() for path in files}

    def _copy(self) -> None:
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            check=True,
            capture_output=True,
        )
        for name in filter(None, listed.stdout.decode().split("\0")):
            if not name.startswith(("tests/", "docs/", "benchmarks/")) and (ROOT / name).is_file():
                (self.root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / name, self.root / name)


@pytest.fixture(scope="session")
def preset() -> dict[str, Any]:
    """The default parameters as plain data; read once, which takes half a second."""
    return read_params(ROOT / "presets" / "digits.yaml")


@pytest.fixture
def digits(preset: dict[str, Any]) -> dict[str, Any]:
    """A copy of the default parameters, with fewer methods and the teacher of another file than `resnet8`."""
    params = copy.deepcopy(preset)
    params["teacher"]["arch"] = "lenet5"
    params["matrix"] |= {"methods": ["noise", "class_impressions", "zskd", "real"], "proxies": []}
    return params


@pytest.fixture
def settings(digits: dict[str, Any]) -> Settings:
    """The default parameters."""
    return Settings(digits)


@pytest.fixture(scope="session")
def make_project() -> type[Project]:
    """The class of tiny projects, for tests that want one of their own."""
    return Project


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A tiny project that has not run yet; one for all tests of a file."""
    return Project(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny_params() -> Callable[[dict[str, Any]], dict[str, Any]]:
    """`tiny`, for tests that want parameters of their own."""
    return tiny
