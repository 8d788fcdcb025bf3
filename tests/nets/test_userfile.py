"""A user's Python file runs only with consent, and what was consented to is what runs."""

import importlib.util
import py_compile
import sys
from hashlib import sha256
from pathlib import Path

import pytest
import torch

from pipeline import nets
from pipeline.core.errors import ParamsError, TeacherError
from pipeline.nets import userfile

CANARY = "from pathlib import Path\nPath(__file__).with_name('canary').touch()\n"
NET = """
from torch import nn

def my_net(classes, channels, size):
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * size * size, classes))

def fixed(classes):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(classes))

def anything(**dimensions):
    return my_net(**dimensions)

def greedy(classes, depth):
    return None

def wrong_width(classes, channels, size):
    return my_net(classes + 1, channels, size)

def no_net(classes):
    return classes

def failing():
    raise OSError("the weights are\\non another disk")

VALUE = 3
"""


def write(folder: Path, text: str = CANARY + NET) -> tuple[Path, str]:
    path = folder / "mine.py"
    path.write_text(text)
    return path, sha256(path.read_bytes()).hexdigest()


def ran(path: Path) -> bool:
    return path.with_name("canary").exists()


def test_without_consent_nothing_runs_and_the_message_gives_path_hash_and_cure(tmp_path: Path) -> None:
    path, digest = write(tmp_path)
    with pytest.raises(TeacherError, match=rf"mine\.py: .*consent.*{digest}.*`trust` in params\.yaml") as caught:
        nets.build(f"python:{path}:my_net", 3, 1, 4)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not ran(path)


@pytest.mark.parametrize("wrong", ["0" * 64, "", "my_net", "{half}", "*"])
def test_another_hash_is_no_consent(tmp_path: Path, wrong: str) -> None:
    path, digest = write(tmp_path)
    with pytest.raises(TeacherError, match=digest):
        nets.build(f"python:{path}:my_net", 3, 1, 4, trust=(wrong.format(half=digest[:32]),))
    assert not ran(path)


@pytest.mark.parametrize("name", ["my_net", "fixed", "anything"])
def test_with_consent_the_callable_gets_the_keywords_it_takes(tmp_path: Path, name: str) -> None:
    path, digest = write(tmp_path)
    net = nets.build(f"python:{path}:{name}", 3, 2, 4, trust=("0" * 64, digest.upper()))
    assert ran(path)
    assert net(torch.zeros(5, 2, 4, 4)).shape == (5, 3)
    assert nets.final_linear(net).out_features == 3


def test_a_changed_file_needs_new_consent(tmp_path: Path) -> None:
    path, digest = write(tmp_path, NET)
    nets.build(f"python:{path}:my_net", 3, 1, 4, trust=(digest,))
    write(tmp_path, CANARY + NET)
    with pytest.raises(TeacherError, match="consent"):
        nets.build(f"python:{path}:my_net", 3, 1, 4, trust=(digest,))
    assert not ran(path)


def test_a_file_exchanged_after_it_was_hashed_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, digest = write(tmp_path, NET + "# looks harmless\n")
    hash_then_exchange = userfile.sha256_bytes

    def exchanging(content: bytes) -> str:
        found = hash_then_exchange(content)
        path.write_text(CANARY + NET)
        return found

    monkeypatch.setattr(userfile, "sha256_bytes", exchanging)
    nets.build(f"python:{path}:my_net", 3, 1, 4, trust=(digest,))
    assert "canary" in path.read_text()
    assert not ran(path)


def test_a_cached_bytecode_file_beside_it_is_not_what_runs(tmp_path: Path) -> None:
    path, digest = write(tmp_path, NET)
    planted = tmp_path / "planted.py"
    planted.write_text(CANARY + NET)
    unchecked = py_compile.PycInvalidationMode.UNCHECKED_HASH
    py_compile.compile(
        str(planted), importlib.util.cache_from_source(str(path)), str(path), invalidation_mode=unchecked
    )
    nets.build(f"python:{path}:my_net", 3, 1, 4, trust=(digest,))
    assert not ran(path)


def test_loading_leaves_no_bytecode_and_no_search_path_behind(tmp_path: Path) -> None:
    path, digest = write(tmp_path)
    before = list(sys.path)
    nets.build(f"python:{path}:my_net", 3, 1, 4, trust=(digest,))
    assert sys.path == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["canary", "mine.py"]


def test_what_lies_beside_the_file_cannot_be_imported_by_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "beside_mine.py").write_text(CANARY)
    path, digest = write(tmp_path, "import beside_mine\n" + NET)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    with pytest.raises(TeacherError, match="fails on loading: ModuleNotFoundError: No module named 'beside_mine'"):
        nets.build("python:mine.py:my_net", 3, 1, 4, trust=(digest,))
    assert not ran(path)


def test_a_user_file_cannot_take_the_place_of_another_module(tmp_path: Path) -> None:
    path = tmp_path / "json.py"
    path.write_text(NET)
    import json

    nets.build(f"python:{path}:my_net", 3, 1, 4, trust=(sha256(path.read_bytes()).hexdigest(),))
    assert sys.modules["json"] is json


def test_dataclasses_in_a_user_file_find_their_module(tmp_path: Path) -> None:
    text = "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass A:\n    x: int\n"
    path, digest = write(tmp_path, text + NET)
    assert nets.build(f"python:{path}:my_net", 3, 1, 4, trust=(digest,)) is not None


def test_a_file_that_fails_to_load_is_not_kept_half_loaded(tmp_path: Path) -> None:
    path, digest = write(tmp_path, NET + "\nraise RuntimeError('halfway')\n")
    for _ in range(2):
        with pytest.raises(TeacherError, match=r"fails on loading: RuntimeError: halfway"):
            nets.build(f"python:{path}:my_net", 3, 1, 4, trust=(digest,))


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("missing", r"has no callable 'missing'; it defines my_net, fixed, "),
        ("VALUE", r"has no callable 'VALUE'"),
        ("greedy", r"fails with .*TypeError: .*'depth'"),
        ("wrong_width", r"puts out \(1, 4\) for one image, expected logits \(1, 3\)"),
        ("no_net", r"returned int, expected a torch\.nn\.Module"),
        ("failing", r"OSError: the weights are on another disk"),
    ],
)
def test_a_callable_that_makes_no_such_network_is_named(tmp_path: Path, name: str, match: str) -> None:
    path, digest = write(tmp_path)
    with pytest.raises(TeacherError, match=match):
        nets.build(f"python:{path}:{name}", 3, 1, 4, trust=(digest,))


@pytest.mark.parametrize(
    "arch", ["python:", "python:x.py", "python:x.py:", "python::net", "python:x.py:a.b", "python:x.py:a b"]
)
def test_a_name_of_another_form_is_refused_with_an_example(arch: str) -> None:
    with pytest.raises(ParamsError, match="expected python:PATH:CALLABLE"):
        nets.build(arch, 3, 1, 4)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent.py"):
        with pytest.raises(TeacherError, match="no such Python file"):
            nets.build(f"python:{path}:net", 3, 1, 4)


def test_a_file_too_large_to_be_a_network_is_refused(tmp_path: Path) -> None:
    path, digest = write(tmp_path, NET + "#" * (1 << 20))
    with pytest.raises(TeacherError, match="too large"):
        nets.build(f"python:{path}:my_net", 3, 1, 4, trust=(digest,))
