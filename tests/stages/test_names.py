"""Names in params.yaml become names of stages and files: nothing but plain words gets that far, none in a command."""

import copy
import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline.core.errors import ParamsError
from stages.code import consumers
from stages.settings import Settings

SHELL = [
    "0; touch OWNED #",
    "$(touch OWNED)",
    "`touch OWNED`",
    "a && touch OWNED",
    "a | touch OWNED",
    "> OWNED",
    "a\ntouch OWNED",
]
PATHS = ["../x", "../../../stages", "/tmp/x", "a/b", ".", "a.b", "a b", "a-b", "A", "", "--help", "x" * 65, "ä", "a\n"]
OTHER = [7, 1.5, True, None, ["touch OWNED"], {"touch": "OWNED"}]
NAMES = ["methods", "references", "few_shot", "students", "proxies"]


def put(params: dict[str, Any], place: str, *values: Any) -> None:
    """Add to one list of `matrix`, with a block of each name; or set `few_shot.dataset`."""
    if place == "dataset":
        params["few_shot"]["dataset"] = values[0]
        return
    params["matrix"][place].extend(values)
    blocks = params["students"] if place == "students" else params["methods"]
    template = dict(blocks["lenet5_half" if "lenet5_half" in blocks else next(iter(blocks))])
    blocks.update({value: template for value in values if isinstance(value, str)})


@pytest.mark.parametrize("place", [*NAMES, "dataset"])
@pytest.mark.parametrize("value", [*SHELL, *PATHS, *OTHER], ids=repr)
def test_a_name_is_a_plain_word(settings: Settings, place: str, value: Any) -> None:
    put(settings.params, place, value)
    with pytest.raises(ParamsError) as caught:
        consumers(settings)
    (line,) = str(caught.value).splitlines()
    assert line.startswith("few_shot.dataset: " if place == "dataset" else f"matrix.{place}.")


@pytest.mark.parametrize("value", [*SHELL, "0", -1, 2**31, 0.5, 1e3, True, None, [0], {"a": 0}], ids=repr)
def test_a_seed_is_a_number(settings: Settings, value: Any) -> None:
    put(settings.params, "seeds", value)
    with pytest.raises(ParamsError, match=r"^matrix\.seeds\.\d: [^\n]+$"):
        consumers(settings)


@pytest.mark.parametrize("value", ["noise", {"noise": 1}, None, 3], ids=repr)
def test_a_list_of_names_is_a_list(settings: Settings, value: Any) -> None:
    settings.params["matrix"]["methods"] = value
    with pytest.raises(ParamsError, match=r"^matrix\.methods: [^\n]+$"):
        consumers(settings)


def test_a_key_that_is_not_known_is_refused_with_the_rest(settings: Settings) -> None:
    settings.params["matrix"]["cells"] = ["$(touch OWNED)"]
    with pytest.raises(ParamsError, match=r"^matrix\.cells: .*unknown key"):
        consumers(settings)


@pytest.mark.parametrize("value", ["a", "0", "wrn_16_1", "x" * 64])
def test_plain_words_pass(settings: Settings, value: str) -> None:
    put(settings.params, "students", value)
    assert f"students/{value}" in consumers(settings)


def test_no_command_holds_text_of_params(project_root: Path) -> None:
    stages: dict[str, Any] = YAML(typ="safe", pure=True).load(project_root / "dvc.yaml")["stages"]
    commands = [stage["cmd"] for stage in stages.values()]
    assert all(re.fullmatch(r"python -m stages\.\w+( --proxy)?( \{\}(_labels|_few_shot)?)*", text) for text in commands)


def found(root: Path) -> list[Path]:
    return [path for path in root.rglob("*OWNED*") if ".git" not in path.parts and ".dvc" not in path.parts]


HOSTILE = [
    *((place, values) for place in (*NAMES, "seeds", "dataset") for values in (SHELL[:1], SHELL, PATHS)),
    ("methods", OTHER[:1]),
    ("students", OTHER[4:5]),
    ("seeds", OTHER[4:5]),
    ("proxies", OTHER[5:]),
]


@pytest.mark.slow
@pytest.mark.parametrize(("place", "values"), HOSTILE, ids=str)
def test_no_name_reaches_a_shell_under_dvc(project, place: str, values: list[Any]) -> None:
    before = copy.deepcopy(project.params)
    project.params["matrix"] |= {"methods": ["noise", "real"], "few_shot": ["noise"]}
    put(project.params, place, *values)
    project.write_params()
    project.params = before
    # Past what fails, everything runs that does not come after it.
    lines = project.run("dvc", "repro", "--keep-going", expect=255).splitlines()
    ran = [line for line in lines if line.startswith("> ")]
    assert set(ran) <= {"> python -m stages.code"}  # or DVC itself refuses them
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == len(ran)
    if place != "dataset" and values == SHELL[:1]:
        assert re.match(rf"error: matrix\.{place}\.\d: '0; touch OWNED #': \w+", errors[0])
    assert not [line for line in lines if line.startswith("Traceback")]
    assert not found(project.root)


SINGLE = [("students", "small"), ("seeds", 0), ("methods", "noise")]


@pytest.mark.slow
@pytest.mark.parametrize("flag", ["--single-item", "--downstream", "--force"])
@pytest.mark.parametrize(("place", "plain"), SINGLE, ids=str)
def test_a_stage_run_alone_executes_no_name(project, place: str, plain: Any, flag: str) -> None:
    """`--single-item` runs a stage without those before it: nothing has refused the names."""
    before = copy.deepcopy(project.params)
    put(project.params, place, SHELL[0], "../../OWNED")
    project.write_params()
    project.params = before
    cell = {"students": "small", "seeds": 0, "methods": "noise"}
    for value in (SHELL[0], "../../OWNED"):
        given = cell | {place: value}
        stage = f"distill@{given['methods']}-{given['students']}-{given['seeds']}"
        output = project.run("dvc", "repro", flag, stage, expect=255)
        assert "Traceback" not in output
        assert not found(project.root.parent)
