import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline.core.code import SourceTree
from pipeline.core.errors import PipelineError
from stages import synthesize
from stages.code import consumers, content, write
from stages.settings import Settings


@pytest.fixture
def tree(tmp_path: Path, project_root: Path) -> SourceTree:
    for package in ("pipeline", "stages"):
        shutil.copytree(project_root / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    return SourceTree(tmp_path)


def texts(tree: SourceTree, settings: Settings) -> dict[str, str]:
    fresh = SourceTree(tree.root)
    return {name: content(fresh, roots, settings) for name, roots in consumers(settings).items()}


def modules(text: str) -> set[str]:
    return {line.split("  ")[1] for line in text.splitlines()[1:]}


def test_there_is_a_file_for_every_consumer(settings: Settings) -> None:
    assert set(consumers(settings)) == {
        "teacher",
        "report",
        *(f"methods/{name}" for name in ("noise", "class_impressions", "zskd", "real")),
        *(f"{kind}/{name}" for kind in ("students", "references", "evaluate") for name in ("lenet5_half", "resnet8")),
    }


@pytest.mark.parametrize(
    ("consumer", "inside", "outside"),
    [
        ("teacher", "pipeline.nets.lenet", "pipeline.nets.resnet"),
        ("teacher", "pipeline.real", "pipeline.distill"),
        ("methods/zskd", "pipeline.methods.zskd", "pipeline.methods.class_impressions"),
        ("methods/zskd", "pipeline.nets.lenet", "pipeline.nets.resnet"),
        ("methods/zskd", "pipeline.shards.encode", "pipeline.real"),
        ("methods/real", "pipeline.real", "pipeline.distill"),
        ("students/resnet8", "pipeline.nets.resnet", "pipeline.nets.lenet"),
        ("students/resnet8", "pipeline.shards.reader", "pipeline.shards.produce"),
        ("students/lenet5_half", "pipeline.nets.lenet", "pipeline.nets.resnet"),
        ("students/lenet5_half", "pipeline.distill", "pipeline.methods"),
        ("students/lenet5_half", "pipeline.optimise.network", "pipeline.optimise.source"),
        ("evaluate/resnet8", "pipeline.measure.evaluate", "pipeline.report"),
        ("evaluate/resnet8", "pipeline.nets.lenet", "pipeline.methods"),
        ("report", "pipeline.report", "pipeline.optimise"),
        ("report", "pipeline/report/page.html.j2", "pipeline.methods"),
    ],
)
def test_a_consumer_holds_what_it_runs_and_not_what_others_run(
    project_root: Path, settings: Settings, consumer: str, inside: str, outside: str
) -> None:
    settings.params["distill"]["labels"] = "stored"  # live labels would need the teacher's network too
    found = modules(content(SourceTree(project_root), consumers(settings)[consumer], settings))
    assert inside in found
    assert outside not in found
    assert {name for name in found if name.startswith("stages.")} <= SHARED | MAIN[consumer.partition("/")[0]]


SHARED = {"stages.settings"}
MAIN = {
    "teacher": {"stages.teacher"},
    "methods": {"stages.synthesize"},
    "students": {"stages.distill"},
    "few_shot": {"stages.distill"},
    "evaluate": {"stages.evaluate"},
    "report": {"stages.report"},
}


@pytest.mark.slow
def test_touching_a_module_changes_the_files_that_hold_it(tree: SourceTree, settings: Settings) -> None:
    before = texts(tree, settings)
    for module, path in tree.modules.items():
        original = path.read_text()
        path.write_text(f"{original}\n_touched = 1\n")
        after = texts(tree, settings)
        path.write_text(original)
        changed = {name for name in before if before[name] != after[name]}
        assert changed == {name for name, text in before.items() if module in modules(text)}, module


def test_comments_docstrings_and_formatting_change_nothing(tree: SourceTree, settings: Settings) -> None:
    before = texts(tree, settings)
    for path in tree.modules.values():
        path.write_text(re.sub(r"\n\n\n", "\n\n\n\n# A remark.\n\n", path.read_text()) + "\n\n# The end.\n")
    assert texts(tree, settings) == before


def test_a_new_architecture_file_changes_no_others_file(tree: SourceTree, settings: Settings) -> None:
    before = texts(tree, settings)
    shutil.copy(tree.root / "pipeline/nets/wrn.py", tree.root / "pipeline/nets/newest.py")
    shutil.copy(tree.root / "pipeline/methods/noise.py", tree.root / "pipeline/methods/newest.py")
    assert texts(tree, settings) == before
    settings.params["students"]["fresh"] = {"arch": "wrn_16_1"}
    settings.params["matrix"]["students"].append("fresh")
    after = texts(tree, settings)
    assert {name for name in after if before.get(name) != after[name]} == {
        "students/fresh",
        "references/fresh",
        "evaluate/fresh",
    }


def test_live_labels_bring_the_teachers_architecture(settings: Settings, project_root: Path) -> None:
    found: dict[str, set[str]] = {}
    for labels in ("stored", "live"):
        settings.params["students"]["resnet8"]["labels"] = labels
        text = content(SourceTree(project_root), consumers(settings)["students/resnet8"], settings)
        found[labels] = modules(text)
    assert found["live"] - found["stored"] >= {"pipeline.nets.lenet"}


def test_a_proxy_brings_its_architecture_along(settings: Settings) -> None:
    settings.params["methods"]["zskd"]["proxy"] = {"arch": "wrn_16_1"}
    assert "pipeline.nets.wrn" in consumers(settings)["methods/zskd"]


def test_a_term_brings_its_module_along_where_it_is_used(settings: Settings) -> None:
    def using() -> set[tuple[str, str]]:
        found = consumers(settings).items()
        return {(name, root.rpartition(".")[2]) for name, roots in found for root in roots if ".losses." in root}

    assert using() == set()
    settings.params["distill"]["terms"] = {"attention": {"weight": 1.0, "blocks": "auto"}, "interpolation": None}
    settings.params["students"]["resnet8"]["terms"] = {"activation_boundary": {"weight": 1.0}}
    settings.params["methods"]["zskd"]["proxy"] = {"arch": "resnet8", "terms": {"interpolation": {"weight": 1.0}}}
    assert using() == {
        ("students/lenet5_half", "attention"),
        ("students/resnet8", "activation_boundary"),
        ("methods/zskd", "interpolation"),
    }


def test_a_proxys_measurement_depends_on_both_architectures(settings: Settings, project_root: Path) -> None:
    settings.params["methods"]["zskd"]["proxy"] = {"arch": "wrn_16_1"}
    assert not any(name.startswith("evaluate_proxy/") for name in consumers(settings))
    settings.params["matrix"]["proxies"].append("zskd")
    roots = consumers(settings)["evaluate_proxy/zskd"]
    found = modules(content(SourceTree(project_root), roots, settings))
    assert found >= {"stages.evaluate", "pipeline.nets.wrn", "pipeline.nets.lenet"}
    assert not found & {"pipeline.nets.resnet", "pipeline.methods.zskd", "stages.synthesize"}


def test_finished_students_have_a_file_of_their_own(settings: Settings, project_root: Path) -> None:
    before = consumers(settings)
    settings.params["matrix"]["few_shot"].append("zskd")
    after = consumers(settings)
    assert set(after) - set(before) == {"few_shot/lenet5_half", "few_shot/resnet8"}
    assert {name: after[name] for name in before} == before
    found: dict[str, set[str]] = {}
    for labels in ("hard", "live"):
        settings.params["few_shot"]["labels"] = labels
        roots = consumers(settings)["few_shot/resnet8"]
        found[labels] = modules(content(SourceTree(project_root), roots, settings))
    assert found["hard"] >= {"stages.distill", "pipeline.distill.few_shot", "pipeline.nets.resnet"}
    assert "pipeline.real" not in found["hard"], "real images come out of shards"
    assert "pipeline.nets.lenet" in found["live"] - found["hard"], "the teacher, to label live"


def test_unfinished_work_on_real_images_depends_on_the_code_of_their_source(
    settings: Settings, project_root: Path
) -> None:
    tree = SourceTree(project_root)
    for source, expected in (("digits", {"pipeline.real.digits"}), ("none", set())):
        settings.params["data"]["source"] = source
        roots = synthesize._roots(tree, "real", synthesize.read_method(settings, "real"), "lenet5")
        assert {root for root in roots if root.startswith("pipeline.real.")} == expected


def test_the_data_block_changes_only_methods_that_read_it(settings: Settings, project_root: Path) -> None:
    tree = SourceTree(project_root)
    before = texts(tree, settings)
    settings.params["data"]["size"] = 20
    after = texts(tree, settings)
    assert {name for name in after if before[name] != after[name]} == {"methods/real"}


def test_teachers_from_elsewhere_bring_their_builder(settings: Settings) -> None:
    settings.params["teacher"] = {"source": "torchvision", "name": "resnet18"}
    assert consumers(settings)["teacher"] == ("stages.teacher", "pipeline.nets.external")
    settings.params["teacher"] = {"source": "python", "path": "net.py", "callable": "build"}
    assert consumers(settings)["teacher"] == ("stages.teacher", "pipeline.nets.userfile")


def test_files_of_consumers_that_are_gone_disappear(tmp_path: Path, project_root: Path, settings: Settings) -> None:
    write(SourceTree(project_root), settings, tmp_path / "code")
    settings.params["matrix"]["students"].remove("resnet8")
    write(SourceTree(project_root), settings, tmp_path / "code")
    assert sorted(path.name for path in (tmp_path / "code" / "students").iterdir()) == ["lenet5_half"]


def test_the_file_that_all_students_wait_for_never_changes(
    tmp_path: Path, project_root: Path, settings: Settings
) -> None:
    write(SourceTree(project_root), settings, tmp_path)
    before = (tmp_path / "matrix").read_bytes()
    settings.params["matrix"]["seeds"].append(7)
    write(SourceTree(project_root), settings, tmp_path)
    assert (tmp_path / "matrix").read_bytes() == before


def test_every_path_with_a_name_waits_until_they_are_known_to_be_plain(project_root: Path) -> None:
    stages: dict[str, Any] = YAML(typ="safe", pure=True).load(project_root / "dvc.yaml")["stages"]
    for name, stage in stages.items():  # whatever the names are: by a path that holds none
        paths = [path for path in stage["deps"] if "${" not in path]
        assert name == "code" or any(path == "data/teacher" or path.startswith("data/code/") for path in paths), name


@pytest.mark.parametrize("key", ["methods", "students"])
def test_a_name_without_a_block_is_an_error(settings: Settings, key: str) -> None:
    settings.params["matrix"][key].append("missing")
    with pytest.raises(PipelineError, match=rf"{key}\.missing"):
        consumers(settings)
