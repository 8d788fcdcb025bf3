"""The right file in the wrong place: whoever uses it refuses, and names what is there and what belongs there."""

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline.core.checkpoint import Checkpoint
from pipeline.core.errors import DataError
from pipeline.core.params import read_params
from stages import distill, evaluate, report, synthesize, teacher

STAGES = {"teacher": teacher, "synthesize": synthesize, "distill": distill, "evaluate": evaluate, "report": report}


def call(stage: str, *arguments: str) -> None:
    """Run a stage's command in this process and in this folder."""
    before, sys.argv = sys.argv, [stage, *arguments]
    try:
        STAGES[stage].main()
    finally:
        sys.argv = before


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def write(params: dict[str, Any]) -> None:
    YAML(typ="safe", pure=True).dump(params, Path("params.yaml"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_params: Any) -> Path:
    """A tiny project that has run: two datasets, students of two seeds, references, finished ones."""
    folder = tmp_path_factory.mktemp("made")
    params = tiny_params(read_params(Path(__file__).parents[2] / "presets" / "digits.yaml"))
    params["students"]["twin"] = dict(params["students"]["small"])
    params["matrix"] |= {"methods": ["noise", "real"], "references": ["real"], "few_shot": ["noise"], "seeds": [0, 1]}
    params["methods"]["real"]["count"] = 100
    params["evaluate"]["belief"] = None
    with inside(folder), pytest.MonkeyPatch.context() as patch:
        patch.setenv("PHOTOGRAM_WORKERS", "1")
        write(params)
        call("teacher")
        for dataset in ("noise", "real"):
            call("synthesize", dataset)
        for row, seed in (("noise", "0"), ("noise", "1"), ("real", "0"), ("real_labels", "0"), ("noise_few_shot", "0")):
            call("distill", row, "small", seed)
            call("evaluate", row, "small", seed)
        call("distill", "noise", "twin", "0")
    return folder


@pytest.fixture
def place(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(made, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    monkeypatch.setenv("PHOTOGRAM_WORKERS", "1")
    return tmp_path / "copy"


def swap(first: str, second: str) -> None:
    one, other, aside = (Path("data", name) for name in (first, second, "aside"))
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


SWAPPED = [
    ("synthetic/noise", "synthetic/real", "distill noise small 0", "'real', expected 'noise'"),
    ("synthetic/noise", "synthetic/real", "distill real_labels small 0", "'noise', expected 'real'"),
    ("synthetic/noise", "synthetic/real", "distill noise_few_shot small 0", "'noise', expected 'real'"),
    ("synthetic/noise", "synthetic/real", "evaluate noise small 0", "'real', expected 'noise'"),
    ("synthetic/noise", "synthetic/real", "evaluate --proxy noise", "'real', expected 'noise'"),
    ("synthetic/noise", "synthetic/real", "report", "'noise', expected 'real'"),
    (
        "students/noise-small-0",
        "students/noise-small-1",
        "evaluate noise small 0",
        "'noise-small-1', expected 'noise-small-0'",
    ),
    (
        "students/noise-small-0",
        "students/noise-small-1",
        "distill noise_few_shot small 0",
        "'noise-small-1', expected 'noise-small-0'",
    ),
    ("students/noise-small-0", "students/real-small-0", "evaluate noise small 0", "'real-small-0', expected"),
    ("students/noise-small-0", "students/noise-twin-0", "evaluate noise small 0", "'noise-twin-0', expected"),
    ("students/noise-small-0", "students/noise-twin-0", "distill noise_few_shot small 0", "'noise-twin-0', expected"),
    (
        "students/noise-small-0",
        "students/noise_few_shot-small-0",
        "evaluate noise small 0",
        "'noise_few_shot-small-0', ex",
    ),
    (
        "students/noise-small-0",
        "students/noise_few_shot-small-0",
        "distill noise_few_shot small 0",
        "expected 'noise-s",
    ),
    ("students/real-small-0", "students/real_labels-small-0", "evaluate real_labels small 0", "'real-small-0', expect"),
    (
        "metrics/noise-small-0.json",
        "metrics/noise-small-1.json",
        "report",
        "noise-small-0.json: holds .* of noise-small-1",
    ),
    (
        "metrics/noise-small-0.json",
        "metrics/real-small-0.json",
        "report",
        "real-small-0.json: holds .* of noise-small-0",
    ),
]


@pytest.mark.parametrize(
    ("first", "second", "command", "said"), SWAPPED, ids=[f"{one[2]}: {one[0]}" for one in SWAPPED]
)
def test_swapped_folders_are_refused(place: Path, first: str, second: str, command: str, said: str) -> None:
    swap(first, second)
    with pytest.raises(DataError, match=said):
        call(*command.split())


@pytest.mark.parametrize(
    ("command", "what"),
    [
        ("evaluate noise small 0", "the sha256 of the teacher that the student learned from"),
        ("report", "its teacher's sha256"),
    ],
)
def test_another_teacher_is_refused(place: Path, command: str, what: str) -> None:
    params = read_params(Path("params.yaml")) | {"seed": 1}
    write(params)
    call("teacher")
    with pytest.raises(DataError, match=rf"{what} is '[0-9a-f]{{64}}', expected '[0-9a-f]{{64}}'"):
        call(*command.split())


def test_a_dataset_made_anew_is_not_the_students(place: Path) -> None:
    params = read_params(Path("params.yaml"))
    params["methods"]["noise"]["distribution"] = "normal"
    write(params)
    shutil.rmtree("data/synthetic/noise")
    call("synthesize", "noise")
    with pytest.raises(DataError, match="the sha256 of the manifest that the student learned from is "):
        call("evaluate", "noise", "small", "0")


def test_costs_are_those_of_all_runs(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*arguments: Any, **options: Any) -> None:
        original(*arguments, **options)
        raise KeyboardInterrupt

    def slow(checkpoint: Checkpoint, state: dict[str, Any]) -> None:
        time.sleep(0.5)
        save(checkpoint, state)

    save, original = Checkpoint.save, distill.train
    monkeypatch.setattr(Checkpoint, "save", slow)
    monkeypatch.setattr(distill, "train", killed)
    with pytest.raises(KeyboardInterrupt):
        call("distill", "noise", "small", "0")
    monkeypatch.undo()
    monkeypatch.chdir(place)
    call("distill", "noise", "small", "0")
    cost = json.loads(Path("data/provenance/students/noise-small-0.json").read_text())
    assert cost["seconds"] >= 0.5
    assert cost["threads"] >= 1
    assert not list(Path(".work/students").rglob("*.safetensors"))


def test_right_files_pass_and_leftovers_of_killed_runs_go(place: Path) -> None:
    leftovers = [
        Path("data/teacher/.model.safetensors.0a0a0a0a.tmp"),
        Path("data/students/noise-small-0/.card.json.0a0a0a0a.tmp"),
        Path("data/history/.noise-small-0.csv.0a0a0a0a.tmp"),
        Path("data/provenance/students/.noise-small-0.json.0a0a0a0a.tmp"),
        Path("data/provenance/synthetic/.noise.json.0a0a0a0a.tmp"),
        Path("data/metrics/.noise-small-0.json.0a0a0a0a.tmp"),
        Path("data/belief/.noise-small-0.csv.0a0a0a0a.tmp"),
    ]
    for path in leftovers:
        path.write_bytes(b"half")
    other = Path("data/metrics/.real-small-0.json.0a0a0a0a.tmp")  # perhaps of a run beside this one
    other.write_bytes(b"half")
    call("teacher")
    call("synthesize", "noise")
    call("distill", "noise", "small", "0")
    call("evaluate", "noise", "small", "0")
    assert not [path for path in leftovers if path.exists()]
    assert other.exists()
