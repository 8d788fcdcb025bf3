"""The installed library is `photogram`: it needs nothing of the checkout, and meets nobody else's `pipeline`."""

import ast
import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

OURS = {"pipeline", "photogram", "stages"}  # none of them can be imported by name from inside
FOREIGN = "raise RuntimeError('somebody else\\'s pipeline was imported')\n"
USE = """
import importlib, json, pkgutil, sys
import photogram
from photogram import methods, nets

names = [found.name for found in pkgutil.walk_packages(photogram.__path__, "photogram.")]
for name in names:
    importlib.import_module(name)
net = nets.build("lenet5", 10, 1, 32)
loaded = [methods.load(name).__module__ for name in methods.names()]
ours = sorted({name.partition(".")[0] for name in sys.modules} & {"pipeline", "stages", "tests"})
print(json.dumps({"where": photogram.__file__, "net": type(net).__module__, "methods": loaded, "ours": ours}))
"""


def files(root: Path) -> list[Path]:
    """Everything in pipeline/ that is no by-product."""
    return sorted(path for path in (root / "pipeline").rglob("*") if path.is_file() and "__pycache__" not in path.parts)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built without network, in a copy, since building leaves files behind."""
    root, copy = Path(__file__).resolve().parent.parent, tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, copy)
    shutil.copytree(root / "pipeline", copy / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    build = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(copy)], cwd=copy, check=True, capture_output=True)
    (built,) = copy.glob("photogram-*-py3-none-any.whl")
    return built


def test_the_wheel_holds_all_of_the_library_and_nothing_else(wheel: Path, project_root: Path) -> None:
    content = zipfile.ZipFile(wheel)
    found = {name: content.read(name) for name in content.namelist() if ".dist-info/" not in name}
    source = {path.relative_to(project_root).as_posix(): path.read_bytes() for path in files(project_root)}
    assert found == {name.replace("pipeline/", "photogram/", 1): data for name, data in source.items()}


def test_installed_beside_a_foreign_pipeline_it_works_and_imports_none_of_it(wheel: Path, tmp_path: Path) -> None:
    target, elsewhere = tmp_path / "site", tmp_path / "project"
    zipfile.ZipFile(wheel).extractall(target)  # a wheel without scripts is installed by unpacking it
    (elsewhere / "pipeline").mkdir(parents=True)
    (elsewhere / "pipeline" / "__init__.py").write_text(FOREIGN)
    environment = os.environ | {"PYTHONPATH": f"{elsewhere}{os.pathsep}{target}"}
    done = subprocess.run(
        [sys.executable, "-c", USE], cwd=elsewhere, env=environment, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["where"] == str(target / "photogram" / "__init__.py")
    assert seen["net"].startswith("photogram.nets.")
    assert seen["methods"]
    assert all(name.startswith("photogram.methods.") for name in seen["methods"])
    assert seen["ours"] == []


def test_every_package_is_listed(project_root: Path) -> None:
    settings = tomllib.loads((project_root / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {path.parent.relative_to(project_root) for path in files(project_root) if path.suffix == ".py"}
    assert sorted(settings["packages"]) == sorted(".".join(("photogram", *folder.parts[1:])) for folder in folders)


def test_imports_inside_the_library_are_relative(project_root: Path) -> None:
    absolute = [
        f"{path.relative_to(project_root)}:{node.lineno}"
        for path in files(project_root)
        if path.suffix == ".py"
        for node in ast.walk(ast.parse(path.read_bytes()))
        if (isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").split(".")[0] in OURS)
        or (isinstance(node, ast.Import) and any(name.name.split(".")[0] in OURS for name in node.names))
    ]
    assert absolute == []
