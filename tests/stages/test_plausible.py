"""Parameters as somebody might write them: what `stages.check` accepts runs to the end, on a tiny project."""

import copy
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from pipeline.core.errors import MethodError, PipelineError, TeacherError, TrainingError
from pipeline.core.params import read_params
from stages import check, distill, evaluate, report, synthesize, teacher
from stages.settings import Settings

STAGES = {"teacher": teacher, "synthesize": synthesize, "distill": distill, "evaluate": evaluate, "report": report}
PARAMS = read_params(Path(__file__).parents[2] / "presets" / "digits.yaml")
METHODS = tuple(PARAMS["methods"])
OF_TEACHER = ("seed", "trust", "compute", "data", "teacher")  # what data/teacher depends on

WHOLE = (-1, 0, 1, 2, 3, 5, 8, 10, 15, 16, 17, 18, 20, 28, 32, 40, 64, 100, 1000)
REAL = (-0.1, 0.0, 1e-9, 1e-4, 0.01, 0.3, 0.5, 1.0, 1.5, 2.0, 10.0, 1e4, 1e30)
HUGE = (10**6 + 1, 2 * 10**9, 2**31 - 1, 2**31, 2**63)
WORDS = ("adam", "adamw", "sgd", "cosine", "constant", "clamp", "rescale", "free", "last", "best", "normal", "uniform",
         "zeros", "border", "stored", "live", "hard", "balanced", "random", "train", "eval", "head", "hidden2",
         "nowhere", "auto", "student", "teacher", "interpolated", "png", "npy", "float32", "bfloat16", "digits", "none",
         "lenet5", "lenet5_half", "lenet5_bn", "resnet8", "wrn_10_1", "vgg11_bn", "mobilenet_v2", "real",
         "noise")  # fmt: skip
MOST = {"steps": 3, "epochs": 2, "steps_per_epoch": 2, "iterations": 2, "student_steps": 2, "rounds": 2, "count": 100,
        "images": 40, "warmup": 2, "warmup_epochs": 2}  # fmt: skip
# Numbers that no check can judge: the training says so itself.
NUMERIC = (MethodError, TeacherError, TrainingError)


def tiny(params: dict[str, Any]) -> dict[str, Any]:
    """Everything cut down to what takes a moment."""
    short = {"epochs": 1, "steps_per_epoch": 1, "batch": 8}
    params["teacher"]["recipe"].update(short)
    params["distill"].update(short)
    params["few_shot"] |= {"per_class": 1, "epochs": 1, "steps_per_epoch": 1}
    params["shards"] |= {"size": 20, "holdout": 20}
    params["evaluate"]["belief"] |= {"images": 2, "steps": 2}
    params["students"] = {"small": {"arch": "lenet5_half"}}
    for name, block in params["methods"].items():
        block["count"] = 100 if name == "real" else 20
        for key, most in {
            "steps": 2,
            "epochs": 2,
            "iterations": 1,
            "batch": 20,
            "group": 20,
            "student_steps": 1,
        }.items():
            if key in block:
                block[key] = most
        if "phases" in block:
            block["phases"] = [{"pool": 1, "steps": 2, "jitter": 1}]
        if "snapshots" in block:
            block["snapshots"]["states"] = 2
        if "rounds" in block:
            block |= {"images": 20, "proxy": block["proxy"] | short}
    return params


TINY = tiny(copy.deepcopy(PARAMS))


def leaves(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Every number, word, list and empty mapping, with where it stands."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from leaves(item, (*path, key))
        return
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from leaves(item, (*path, index))
    yield path, value


def instead(path: tuple[str | int, ...], value: Any) -> st.SearchStrategy[Any]:
    """Other values of the same type, no larger than a moment's work where they are work."""
    if isinstance(value, bool):
        return st.just(not value)
    if isinstance(value, int):
        most = MOST.get(str(path[-1]), WHOLE[-1])
        return st.sampled_from([number for number in WHOLE if number <= most] + ([most] if most not in WHOLE else []))
    if isinstance(value, float):
        return st.sampled_from(REAL)
    if isinstance(value, str):
        return st.sampled_from(WORDS)
    if isinstance(value, list):
        return st.sampled_from([value[:-1], value + value[:1], value[::-1]])
    return st.none()


def put(params: dict[str, Any], path: tuple[str | int, ...], value: Any) -> None:
    block: Any = params
    for part in path[:-1]:
        block = block[part]
    block[path[-1]] = value


@st.composite
def plausible(draw: st.DrawFn) -> dict[str, Any]:
    """Tiny parameters of one method, one to three of them changed."""
    params = copy.deepcopy(TINY)
    method = draw(st.sampled_from(METHODS))
    params["methods"] = {name: params["methods"][name] for name in {method, "real"}}
    params["students"]["small"]["labels"] = draw(st.sampled_from(["stored", "live"]))
    params["matrix"] = {
        "methods": list(dict.fromkeys([method, "real"])),
        "references": ["real"] * draw(st.booleans()),
        "few_shot": [method] * draw(st.booleans()),
        "students": ["small"],
        "seeds": [0],
        "proxies": [method] * ("proxy" in params["methods"][method]),
    }
    skipped = {("compute", "compile"), ("compute", "device"), ("report", "title")}
    places = [(path, value) for path, value in leaves(params) if path[:2] not in skipped and path[0] != "matrix"]
    own = [place for place in places if place[0][:2] == ("methods", method)]
    for _ in range(draw(st.integers(1, 3))):
        path, value = draw(st.sampled_from(own if own and draw(st.booleans()) else places))
        try:
            put(params, path, draw(instead(path, value)))
        except (LookupError, TypeError):  # inside a list that has been cut
            continue
    return params


def call(stage: str, *arguments: str) -> None:
    sys.argv = [stage, *arguments]
    STAGES[stage].main()


def run(params: dict[str, Any], taught: dict[str, Path], folder: Path) -> None:
    """Every stage, in the order of dvc.yaml. Teachers are kept from one run to the next."""
    key = json.dumps([params[block] for block in OF_TEACHER])
    if key in taught:
        shutil.copytree(taught[key], "data/teacher")
    else:
        call("teacher")
        taught[key] = folder / f"teacher-{len(taught)}"
        shutil.copytree("data/teacher", taught[key])
    matrix = params["matrix"]
    for method in matrix["methods"]:
        call("synthesize", method)
    rows = [*matrix["methods"], *(f"{name}_labels" for name in matrix["references"])]
    for row in [*rows, *(f"{name}_few_shot" for name in matrix["few_shot"])]:
        call("distill", row, "small", "0")
        call("evaluate", row, "small", "0")
    for method in matrix["proxies"]:
        call("evaluate", "--proxy", method)
    call("report")


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Path], Path]:
    return {}, tmp_path_factory.mktemp("teachers")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PHOTOGRAM_WORKERS", "1")
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.timeout(3000)
@settings(
    max_examples=int(os.environ.get("PHOTOGRAM_TEST_EXAMPLES", "500")),
    deadline=None,
    derandomize="PHOTOGRAM_TEST_EXAMPLES" not in os.environ,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(params=plausible())
@example(params=TINY | {"matrix": PARAMS["matrix"] | {"methods": ["noise", "real"], "students": ["small"], "seeds": [0],
                                                      "few_shot": ["noise"], "proxies": []}})  # fmt: skip
def test_what_the_check_accepts_runs_to_the_end(
    params: dict[str, Any], taught: tuple[dict[str, Path], Path], place: Path
) -> None:
    found = check.find(Settings(params))
    if found.errors:
        return
    for name in ("data", ".work"):
        shutil.rmtree(place / name, ignore_errors=True)
    YAML(typ="safe", pure=True).dump(params, place / "params.yaml")
    error = ended(lambda: run(params, *taught))
    if error is not None:
        warned = "few_shot.per_class" in str(error) and any("stops the run" in line for line in found.warnings)
        numeric = isinstance(error, NUMERIC) and ("finite" in str(error) or "collapsed" in str(error))
        assert warned or numeric, repr(error)


def ended(function: Callable[[], None]) -> PipelineError | None:
    """The error that a user would see; anything else is ours, and goes on."""
    try:
        function()
    except PipelineError as error:
        return error
    return None


@pytest.mark.parametrize("value", HUGE)
def test_the_check_is_quick_for_every_number(value: int) -> None:
    start = time.process_time()
    for path, before in leaves(TINY):
        if isinstance(before, int) and not isinstance(before, bool):
            params = copy.deepcopy(TINY)
            put(params, path, value)
            check.find(Settings(params))
    assert time.process_time() - start < 300
