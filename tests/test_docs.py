"""What README and the guides tell people to type and to write is there, and is right."""

import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from dvc.cli.parser import get_main_parser
from dvc.utils.hydra import apply_overrides
from ruamel.yaml import YAML

from pipeline import real
from pipeline.core.params import read_params
from stages import check

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
WHOLE = {"loss", "terms", "schedule"}  # mappings that another one replaces
PROGRAMS = {"cd", "dvc", "git", "make", "python", "uv"}


def blocks(language: str) -> list[Any]:
    """The fenced blocks of a language, each with its page and line as an id."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for block in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            if block[1] == language:
                found.append(pytest.param(block[2], id=f"{page.name}:{text.count(chr(10), 0, block.start()) + 1}"))
    return found


def commands() -> list[list[str]]:
    """Every command, as words, from blocks and from inline code."""
    lines = [line for block in blocks("sh") for line in block.values[0].replace("\\\n", " ").splitlines()]
    for page in PAGES:
        prose = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        lines += re.findall(r"`((?:make|dvc|python -m) [^`]+)`", prose)
    words = [shlex.split(part, comments=True) for line in lines for part in line.split(" && ")]
    bare = [[word for word in line if not re.match(r"[A-Z_]+=|&$", word)] for line in words]
    return [list(line) for line in dict.fromkeys(map(tuple, bare)) if line]


def of(program: str) -> list[list[str]]:
    return [line[1:] for line in commands() if line[0] == program]


def laid_over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """A block of a guide over a complete one; what names its kind (`source`) is complete by itself."""
    merged = dict(below)
    for key, value in above.items():
        mixed = isinstance(value, dict) and isinstance(below.get(key), dict)
        replaced = key in WHOLE or (isinstance(value, dict) and "source" in value)
        merged[key] = laid_over(below[key], value) if mixed and not replaced else value
    return merged


def check_params(params: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    yaml = YAML()
    yaml.dump(params, folder / "params.yaml")
    monkeypatch.chdir(folder)
    check.main()


def test_every_block_says_what_it_is() -> None:
    assert blocks("") == []
    assert blocks("sh")
    assert blocks("python")
    assert {line[0] for line in commands()} <= PROGRAMS


@pytest.mark.parametrize("text", blocks("yaml"))
def test_blocks_of_parameters_are_right(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "block.yaml").write_text(text, encoding="utf-8")
    block = read_params(tmp_path / "block.yaml")
    preset = "cifar10_cpu" if "teacher" in block else "digits"
    check_params(laid_over(read_params(ROOT / "presets" / f"{preset}.yaml"), block), tmp_path, monkeypatch)


@pytest.mark.parametrize("text", blocks("python"))
def test_python_blocks_run_as_far_as_they_can(text: str) -> None:
    """A file of the library runs as if it were there; of what reads a dataset, the imports do."""
    code = compile(text, "<guide>", "exec")
    place = re.match(r"# (pipeline/\w+)/(\w+)\.py\n", text)
    if place is None:
        imports = "\n".join(re.findall(r"^(?:from [\w.]+ )?import .*$", text, re.MULTILINE))
        exec(compile(imports, "<imports>", "exec"), {})
        return
    package = place[1].replace("/", ".")
    scope: dict[str, Any] = {"__name__": f"{package}.{place[2]}", "__package__": package}
    exec(code, scope)
    WORKS[package](scope)


def net_works(scope: dict[str, Any]) -> None:
    for name in scope["NAMES"]:
        assert scope["build"](name, 10, 1, 16)(torch.zeros(2, 1, 16, 16)).shape == (2, 10)


def term_works(scope: dict[str, Any]) -> None:
    from pipeline.losses import Seen

    logits = torch.randn(4, 10, generator=torch.Generator().manual_seed(0))
    seen = Seen(torch.zeros(4, 1, 8, 8), logits, logits, torch.zeros_like, None, torch.Generator)
    net = torch.nn.Identity()
    bound = scope["Term"](weight=2.0).bind(net, net, (1, 8, 8), torch.Generator())
    assert bound(seen, torch.dist) == 0


def method_works(scope: dict[str, Any]) -> None:
    run = SimpleNamespace(teacher=SimpleNamespace(card=SimpleNamespace(channels=1, size=8, classes=("a", "b"))))
    method = scope["Method"](level=0.5)
    batch = method.fit(run).draw(3, torch.Generator().manual_seed(0))
    assert (batch.targets is not None) == method.steered
    assert scope["Method"](level=2).check(1, 8, 2) != []
    assert batch.images.shape == (3, 1, 8, 8)
    assert 0 <= batch.images.min() <= batch.images.max() <= 0.5


def data_works(scope: dict[str, Any]) -> None:
    data = scope["Data"](source="stripes", size=16, channels=1, per_class=3)
    for split in ("train", "test"):
        samples, classes = data.read(split)
        assert real.collect(samples, classes, data.size, data.channels, split).images.shape == (6, 1, 16, 16)


WORKS = {
    "pipeline.nets": net_works,
    "pipeline.losses": term_works,
    "pipeline.real": data_works,
    "pipeline.methods": method_works,
}


def test_the_guide_shows_every_kind_of_file() -> None:
    shown = re.findall(r"^# (pipeline/\w+)/\w+\.py$", (ROOT / "docs" / "adding.md").read_text(), re.MULTILINE)
    assert {place.replace("/", ".") for place in shown} == set(WORKS)


def test_make_has_every_target() -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {line[0] for line in of("make")} <= set(targets)


def test_every_module_that_is_run_is_there() -> None:
    for line in of("python"):
        assert line[0] == "-m"
        assert importlib.util.find_spec(line[1]), line[1]


def test_dvc_takes_its_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for line in of("dvc"):
        get_main_parser().parse_args(line)


@pytest.mark.parametrize("line", [line for line in of("dvc") if line[:2] == ["exp", "run"]])
def test_overrides_of_experiments_are_right(line: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(ROOT / "presets" / "digits.yaml", tmp_path / "params.yaml")
    overrides = [value for option, value in pairwise(line) if option == "-S"]
    apply_overrides(tmp_path / "params.yaml", overrides)
    monkeypatch.chdir(tmp_path)
    check.main()


@pytest.mark.slow
@pytest.mark.parametrize("module", sorted({tuple(line[1:3]) for line in of("python")}), ids=" ".join)
def test_commands_explain_themselves(module: tuple[str, ...]) -> None:
    words = [module[0], *(word for word in module[1:] if word in {"inspect", "preview", "prune", "verify"}), "--help"]
    done = subprocess.run([sys.executable, "-m", *words], cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:\s]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_environment_variables_exist() -> None:
    named = {name for page in PAGES for name in re.findall(r"PHOTOGRAM_\w+", page.read_text(encoding="utf-8"))}
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "pipeline").rglob("*.py"))
    assert named
    assert {name for name in named if name not in code} == set()
