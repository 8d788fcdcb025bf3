import hashlib
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline import methods
from pipeline.core.errors import ParamsError
from pipeline.core.params import read_params
from stages import check, consistency
from stages.settings import Settings

Change = Callable[[dict[str, Any]], object]


def errors(params: dict[str, Any]) -> list[str]:
    return check.find(Settings(params)).errors


@pytest.mark.parametrize("name", ["digits", "mnist", "cifar10", "cifar10_cpu", "imagenet"])
def test_every_preset_is_right(project_root: Path, name: str) -> None:
    assert errors(read_params(project_root / "presets" / f"{name}.yaml")) == []


def put(key: str, value: object) -> Change:
    """Set a dotted key."""

    def change(params: dict[str, Any]) -> None:
        *above, last = key.split(".")
        for part in above:
            params = params[part]
        params[last] = value

    return change


def without(key: str) -> Change:
    def change(params: dict[str, Any]) -> None:
        *above, last = key.split(".")
        for part in above:
            params = params[part]
        del params[last]

    return change


NO_DATA = {"source": "none"}

WRONG: list[tuple[Change, str]] = [
    (put("seed", -1), r"seed: -1: input should be greater than or equal to 0"),
    (put("trust", ["abc"]), r"trust\.0: 'abc': "),
    (put("compute.device", "gpu"), r"compute\.device: 'gpu': input should be 'auto', 'cpu' or 'cuda'"),
    (put("compute.fast", True), r"compute\.fast: True: unknown key"),
    (put("extra", {}), r"extra: unknown block; there are seed, trust"),
    (without("evaluate"), r"evaluate: missing"),
    (put("evaluate.batch", 0), r"evaluate\.batch: 0: "),
    (put("evaluate.belief.steps", 0), r"evaluate\.belief\.steps: 0: "),
    (put("evaluate.belief.stepped", "both"), r"evaluate\.belief\.stepped: 'both': input should be 'student' or 'tea"),
    (without("evaluate.belief"), r"evaluate\.belief: missing"),
    (put("report.title", 3), r"report\.title: 3: "),
    (put("matrix.methods", ["zskd", "dream"]), r"matrix\.methods: 'dream': no such block; methods has noise, real"),
    (put("matrix.students", ["tiny"]), r"matrix\.students: 'tiny': no such block; students has lenet5_half, resnet8"),
    (put("matrix.students", ["resnet8", "resnet8"]), r"matrix\.students: 'resnet8': stands twice"),
    (put("matrix.students", []), r"matrix\.students: \[\]: nothing to report"),
    (put("matrix.seeds", [0, 0]), r"matrix\.seeds: 0: stands twice"),
    (put("matrix.seeds", [-1]), r"matrix\.seeds\.0: -1: input should be greater than or equal to 0"),
    (put("matrix.seeds", ["0"]), r"matrix\.seeds\.0: '0': "),
    (put("matrix.references", ["zskd"]), r"matrix\.references: 'zskd': has no true labels"),
    (put("matrix.proxies", ["zskd"]), r"matrix\.proxies: 'zskd': trains no proxy student; name methods whose block"),
    (put("matrix.proxies", ["dream"]), r"matrix\.proxies: 'dream': expected one of matrix\.methods \(noise, "),
    (put("matrix.proxies", ["zskd", "zskd"]), r"matrix\.proxies: 'zskd': stands twice"),
    (put("matrix.students", ["proxy"]), r"matrix\.students: 'proxy': the name of every proxy student; rename"),
    (without("matrix.proxies"), r"matrix\.proxies: missing"),
    (put("matrix.methods", ["zskd"]), r"matrix\.references: 'real': expected one of matrix\.methods \(zskd\)"),
    (put("matrix.few_shot", ["dream"]), r"matrix\.few_shot: 'dream': expected one of matrix\.methods \(noise, "),
    (put("matrix.few_shot", ["zskd", "zskd"]), r"matrix\.few_shot: 'zskd': stands twice"),
    (put("reference.loss", {"l1": {}}), r"reference\.loss: .*does not go with labels: hard; "),
    (without("few_shot.dataset"), r"few_shot\.dataset: missing"),
    (put("few_shot.per_class", 0), r"few_shot\.per_class: 0: "),
    (put("few_shot.epochs", 0), r"few_shot\.epochs: 0: "),
    (put("few_shot.images", 3), r"few_shot\.images: 3: unknown key"),
    (put("distill.loss", {"l2": {}}), r"distill\.loss\.l2: \{\}: unknown key"),
    (put("distill.loss", {}), r"distill\.loss: \{\}: .*expected one of kl, l1, cross_entropy"),
    (put("distill.loss", {"kl": {"temperature": 4}, "l1": {}}), r"distill\.loss: .*expected one of kl, l1, cross_ent"),
    (put("distill.terms", {"attention": {"weight": 1.0}}), r"distill\.terms\.attention\.blocks: missing"),
    (
        put("students.resnet8.terms", {"interpolation": {"weight": 1}}),
        r"students\.resnet8\.terms\.interpolation\.alpha: missing",
    ),
    (
        put("reference.terms", {"attention": {"weight": 1.0, "blocks": "auto"}}),
        r"reference\.terms: .* attention: the teacher is asked, which labels: hard does without",
    ),
    (put("data.source", "web"), r"data\.source: 'web': must be one of digits, folder, torchvision, none"),
    (put("data.channels", 2), r"data\.channels: 2: "),
    (put("data.channels", 3), r"teacher\.mean: \[0\.\d+\]: data\.channels is 3; give one number per channel"),
    (put("data", NO_DATA), r"teacher\.source: 'train': needs real data, but data\.source is none"),
    (put("data", NO_DATA), r"matrix\.methods: 'real': needs real data, but data\.source is none; take it out"),
    (put("teacher.arch", "lenet9"), r"teacher\.arch: lenet9: "),
    (put("teacher.recipe.optimizer.name", "lion"), r"teacher\.recipe\.optimizer\.name: 'lion': "),
    (put("shards.size", 0), r"shards\.size: 0: "),
    (put("shards.holdout", 150), r"shards\.holdout: 150: expected a multiple of shards\.size \(100\)"),
    (put("methods.zskd.count", 1950), r"methods\.zskd\.count: 1950: expected a multiple .* nearest: 1900 or 2000"),
    (put("methods.zskd.temperature", "hot"), r"methods\.zskd\.temperature: 'hot': "),
    (put("methods.zskd.tau", 20), r"methods\.zskd\.tau: 20: unknown key"),
    (without("methods.zskd.count"), r"methods\.zskd\.count: missing; it has no default"),
    (put("methods.dream", {"count": 100}), r"methods\.dream: no such method; there are adaptive_deepinversion, "),
    (put("distill.loss.kl.temperature", 0), r"distill\.loss\.kl\.temperature: 0"),
    (put("students.resnet8.arch", "resnet9"), r"students\.resnet8\.arch: resnet9: "),
    (put("students.resnet8.learning_rte", 0.1), r"students\.resnet8\.learning_rte: 0\.1: unknown key"),
    (put("students.resnet8", 3), r"students\.resnet8: 3: expected a mapping"),
]


@pytest.mark.parametrize(("change", "expected"), WRONG, ids=[pattern for _, pattern in WRONG])
def test_a_mistake_is_named_with_its_full_key_and_value(digits: dict[str, Any], change: Change, expected: str) -> None:
    change(digits)
    found = errors(digits)
    assert any(re.match(expected, line) for line in found), found


def test_one_mistake_is_one_line(digits: dict[str, Any]) -> None:
    digits["methods"]["zskd"]["temperature"] = "hot"
    assert len(errors(digits)) == 1


def test_all_mistakes_come_at_once(digits: dict[str, Any]) -> None:
    put("seed", "x")(digits)
    put("compute.device", "gpu")(digits)
    put("methods.zskd.count", 1)(digits)
    put("methods.noise.distribution", "pink")(digits)
    put("students.resnet8.arch", "resnet9")(digits)
    put("report.title", None)(digits)
    found = errors(digits)
    for key in ("seed", "compute.device", "methods.zskd.count", "methods.noise.distribution", "students.resnet8.arch"):
        assert sum(line.startswith(f"{key}: ") for line in found) == 1, key
    assert len(found) == 6


def test_a_method_that_trains_a_proxy_may_have_it_measured(digits: dict[str, Any]) -> None:
    put("teacher.arch", "lenet5_bn")(digits)
    digits["matrix"]["methods"].append("adaptive_deepinversion")
    put("matrix.proxies", ["adaptive_deepinversion"])(digits)
    assert errors(digits) == []


FEW_SHOT: list[tuple[Change, str]] = [
    (
        put("few_shot.dataset", "zskd"),
        "few_shot.dataset: 'zskd': has no real images; name a method that reads real data",
    ),
    (put("few_shot.dataset", "pets"), "few_shot.dataset: 'pets': expected one of matrix.methods (noise, "),
    (
        put("few_shot.per_class", 131),
        "few_shot.per_class: 131: of 10 classes more than methods.real.count (1300); lower it, or raise",
    ),
]


@pytest.mark.parametrize(("change", "expected"), FEW_SHOT, ids=[line[:20] for _, line in FEW_SHOT])
def test_where_real_images_come_last_they_must_be_there(digits: dict[str, Any], change: Change, expected: str) -> None:
    change(digits)
    assert errors(digits) == [], "of no concern while nobody is finished"
    put("matrix.few_shot", ["zskd"])(digits)
    (line,) = errors(digits)
    assert line.startswith(expected)


def test_terms_on_features_do_not_disturb_the_references(digits: dict[str, Any]) -> None:
    boundary = {"weight": 1.0, "margin": 1.0, "blocks": [["conv1", "conv1"]]}
    put("distill.terms", {"attention": {"weight": 1.0, "blocks": "auto"}, "activation_boundary": boundary})(digits)
    assert errors(digits) == []
    put("students.resnet8.labels", "stored")(digits)
    (line,) = errors(digits)
    assert line.startswith("students.resnet8.terms: ")
    assert "activation_boundary and attention: the teacher is asked" in line
    assert "take it out, or set labels: live" in line


def test_a_student_of_the_wrong_size_is_found(digits: dict[str, Any]) -> None:
    put("data.size", 8)(digits)
    assert any(line.startswith("students.lenet5_half.arch: ") for line in errors(digits))


def checkpoint(path: str) -> dict[str, Any]:
    return {
        "source": "checkpoint",
        "path": path,
        "key": None,
        "arch": "resnet20",
        "classes": 10,
        "channels": 1,
        "size": 16,
        "mean": [0.5],
        "std": [0.5],
    }


def test_a_teacher_from_a_file_needs_no_data(digits: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "weights.pt").touch()
    put("data", NO_DATA)(digits)
    put("teacher", checkpoint(str(tmp_path / "weights.pt")))(digits)
    put("matrix.methods", ["noise", "zskd"])(digits)
    put("matrix.references", [])(digits)
    put("matrix.proxies", [])(digits)
    found = check.find(Settings(digits))
    assert (found.errors, found.warnings) == ([], [])
    put("shards.holdout", 0)(digits)
    assert any("held-out shards" in line for line in errors(digits))


def test_a_teacher_that_does_not_fit_the_data_is_an_error(digits: dict[str, Any]) -> None:
    put("teacher", checkpoint("none.pt") | {"size": 32})(digits)
    assert "teacher.size: 32: data.size is 16; make them equal, or set data.source: none" in errors(digits)


def of_batch_norm(params: dict[str, Any]) -> list[str]:
    return [line for line in errors(params) if "BatchNorm" in line]


@pytest.mark.parametrize("method", ["deepinversion", "adaptive_deepinversion"])
@pytest.mark.parametrize(("arch", "fits"), [("lenet5", False), ("resnet8", True)])
@pytest.mark.parametrize("source", ["train", "checkpoint"])
def test_methods_of_batch_norm_need_a_teacher_that_has_it(
    project_root: Path, digits: dict[str, Any], method: str, arch: str, fits: bool, source: str
) -> None:
    blocks = read_params(project_root / "presets" / "cifar10.yaml")["methods"]
    put(f"methods.{method}", blocks[method] | {"count": 100})(digits)
    if source == "checkpoint":
        put("teacher", checkpoint("weights.pt"))(digits)
    put("teacher.arch", arch)(digits)
    assert of_batch_norm(digits) == []  # a block that no cell of the grid uses is no mistake
    digits["matrix"]["methods"].append(method)
    expected = (
        f"matrix.methods: {method!r}: teacher {arch} has no BatchNorm layers, whose statistics this method matches; "
        "class_impressions, dafl, dfad, noise, zskd, zskt need none"
    )
    assert errors(digits) == ([] if fits else [expected])


@pytest.mark.parametrize("size", [224, None])
@pytest.mark.parametrize(("name", "fits"), [("alexnet", False), ("resnet18", True)])
def test_a_published_teacher_needs_batch_norm_before_any_fetch(
    project_root: Path, monkeypatch: pytest.MonkeyPatch, name: str, fits: bool, size: int | None
) -> None:
    params = read_params(project_root / "presets" / "imagenet.yaml")
    put("data", NO_DATA)(params)
    put("students", {"resnet18": {"arch": "resnet8"}})(params)
    put("matrix.students", ["resnet18"])(params)
    put("teacher.name", name)(params)
    put("teacher.size", size)(params)
    for fetch in ("torch.hub.load_state_dict_from_url", "torchvision.models._api.load_state_dict_from_url"):
        monkeypatch.setattr(fetch, lambda *_, **__: pytest.fail("downloads"))
    found = errors(params)
    assert len(found) == (0 if fits else 1)
    assert all(line.startswith("matrix.methods: 'deepinversion': teacher torchvision:alexnet has no") for line in found)


def test_a_published_teacher_needs_a_linear_layer_where_a_method_reads_it(project_root: Path) -> None:
    params = read_params(project_root / "presets" / "imagenet.yaml")
    put("data", NO_DATA)(params)
    put("teacher.name", "squeezenet1_1")(params)
    put("methods.zskd", read_params(project_root / "presets" / "mnist.yaml")["methods"]["zskd"])(params)
    put("matrix.methods", ["zskd"])(params)
    expected = "matrix.methods: 'zskd': teacher torchvision:squeezenet1_1 does not end in a linear layer; take it out"
    assert [line for line in errors(params) if line.startswith("matrix.methods")] == [expected]


def test_the_classes_of_a_folder_are_counted(digits: dict[str, Any], tmp_path: Path) -> None:
    for split in ("train", "test"):
        for index in range(30):
            (tmp_path / split / f"kind {index}").mkdir(parents=True)
    put("data", {"source": "folder", "root": str(tmp_path), "channels": 1, "size": 32})(digits)
    put("matrix.few_shot", ["zskd"])(digits)
    put("few_shot.per_class", 40)(digits)
    put("methods.real.count", 1000)(digits)
    assert (
        "few_shot.per_class: 40: of 30 classes more than methods.real.count (1000); lower it, or raise that"
        in errors(digits)
    )


@pytest.mark.parametrize(("count", "warned"), [(100, True), (200, True), (299, True), (300, False), (1300, False)])
def test_a_class_that_may_get_too_few_real_images_is_a_warning(
    digits: dict[str, Any], count: int, warned: bool
) -> None:
    put("matrix.few_shot", ["zskd"])(digits)
    put("methods.real.count", count)(digits)
    found = [line for line in check.find(Settings(digits)).warnings if line.startswith("few_shot.per_class: 10: ")]
    assert len(found) == warned


def test_a_published_teacher_that_does_not_exist_is_found(project_root: Path) -> None:
    params = read_params(project_root / "presets" / "imagenet.yaml")
    put("teacher.name", "resnt50")(params)
    assert [line for line in errors(params) if line.startswith("teacher.name: torchvision:resnt50: no such")]


def test_an_architecture_that_does_not_exist_is_one_error(digits: dict[str, Any]) -> None:
    digits["matrix"]["methods"].append("deepinversion")
    put("teacher.arch", "lenet9")(digits)
    assert len(errors(digits)) == 1


def test_missing_files_are_warnings(digits: dict[str, Any]) -> None:
    put("teacher", checkpoint("nowhere/weights.pt"))(digits)
    put("data", {"source": "folder", "root": "nowhere", "size": 16, "channels": 1})(digits)
    found = check.find(Settings(digits))
    assert found.warnings == ["data.root: nowhere: no such folder", "teacher.path: nowhere/weights.pt: no such file"]


def test_an_untrusted_file_is_shown_with_its_hash(digits: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "net.py"
    path.write_bytes(b"raise SystemExit('never run')\n")
    own = checkpoint("") | {"source": "python", "path": str(path), "callable": "build", "checkpoint": None}
    del own["arch"]
    put("teacher", own)(digits)
    (warning,) = check.find(Settings(digits)).warnings
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert warning.endswith(digest)
    put("trust", [digest])(digits)
    assert check.find(Settings(digits)).warnings == []


def test_the_command_says_that_all_is_right(
    project_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(project_root)
    check.main()
    assert capsys.readouterr().out == "params.yaml is right\n"


def test_the_command_lists_every_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text("seed: -1\n")
    with pytest.raises(ParamsError) as caught:
        check.main()
    lines = str(caught.value).splitlines()
    assert re.fullmatch(r"params\.yaml: \d+ errors", lines[0])
    assert len(lines) == int(lines[0].split()[1]) + 1


def test_checking_takes_no_time(digits: dict[str, Any]) -> None:
    errors(digits)
    start = time.process_time()
    errors(digits)
    assert time.process_time() - start < 1


def quickly(params: dict[str, Any]) -> list[str]:
    """Errors, which are there at once. Importing torchvision takes longer than that, and is paid once."""
    import torchvision.models  # noqa: F401

    start = time.process_time()
    found = errors(params)
    assert time.process_time() - start < 5
    return found


LIMITS: list[tuple[Change, str]] = [
    (put("methods.noise.count", 2_000_000_000), r"methods\.noise\.count: 2000000000: makes 2\d+ shards"),
    (put("methods.noise.count", 10**30), r"methods\.noise\.count: 1000\d+\.\.\.: expected a whole number"),
    (put("evaluate.belief.batch", 10**40), r"evaluate\.belief\.batch: 1000\d+\.\.\.: expected a whole number"),
    (
        put("distill.optimizer.weight_decay", 1e300),
        r"distill\.optimizer\.weight_decay: 1e\+300: expected a number that a float32",
    ),
    (put("shards.size", 100_001), r"shards\.size: 100001: expected 1 to 100000"),
    (put("students.resnet8.arch", "wrn_9994_999"), r"students\.resnet8\.arch: wrn_9994_999: more than \d+ param"),
    (put("students.resnet8.arch", "resnet9998"), r"students\.resnet8\.arch: resnet9998: more than 5000 layers"),
    (put("teacher.arch", "wrn_9994_999"), r"teacher\.arch: wrn_9994_999: more than \d+ parameters"),
    (put("methods.dafl.proxy", {"arch": "wrn_9994_999"}), r"methods\.dafl\.proxy: "),
    (put("methods.zskt.proxy.arch", "wrn_9994_999"), r"methods\.zskt\.proxy\.arch: wrn_9994_999: more than"),
    (put("methods.real.count", 1400), r"methods\.real\.count: 1400: with shards\.holdout \(100\) more than the 1437"),
    (lambda params: params["students"].update({"v1.2": {"arch": "resnet8"}}), r"students: 'v1\.2': "),
    (
        put("distill.terms", {"attention": {"weight": 1.0, "blocks": [["nope", "nada"]]}}),
        r"students\.resnet8: a term between ",
    ),
]


@pytest.mark.parametrize(("change", "expected"), LIMITS, ids=[pattern for _, pattern in LIMITS])
def test_limits_are_known_before_anything_runs(digits: dict[str, Any], change: Change, expected: str) -> None:
    change(digits)
    found = quickly(digits)
    assert any(re.match(expected, line) for line in found), found


@pytest.mark.parametrize("name", ["a\tb", "a\nb", "a\u00a0b", "a\u200db", "\u202eb", "x" * 301])
def test_class_names_that_no_manifest_can_hold_are_found(digits: dict[str, Any], tmp_path: Path, name: str) -> None:
    put("teacher", checkpoint("w.pt") | {"classes": [*"012345678", name]})(digits)
    (line,) = errors(digits)
    assert line.startswith("teacher.classes.9: ")
    put("teacher", checkpoint("w.pt"))(digits)
    if len(name) < 256:
        (tmp_path / "train" / name).mkdir(parents=True)
        (tmp_path / "train" / "b").mkdir()
        put("data", {"source": "folder", "root": str(tmp_path), "size": 16, "channels": 1})(digits)
        (line,) = errors(digits)
        assert line.startswith(f"data.root: {tmp_path / 'train'}.classes.")


@pytest.mark.parametrize(("size", "images", "fits"), [(1024, 600, True), (1024, 3000, False), (10_000, 1, False)])
def test_shards_that_readers_refuse_are_found(
    project_root: Path, monkeypatch: pytest.MonkeyPatch, size: int, images: int, fits: bool
) -> None:
    params = read_params(project_root / "presets" / "imagenet.yaml")
    put("data", NO_DATA)(params)
    put("teacher", checkpoint("w.pt") | {"size": size, "channels": 3, "mean": [0.5] * 3, "std": [0.5] * 3})(params)
    put("teacher.arch", "mobilenet_v2")(params)
    put("shards", {"size": images, "holdout": images, "encoding": "png"})(params)
    for block in params["methods"].values():
        block["count"] = images
    assert [line for line in quickly(params) if line.startswith(("shards: ", "teacher.size: "))] != [] or fits
    if fits:
        assert not [line for line in errors(params) if line.startswith("shards")]


class One(torch.nn.Module):
    """A network that a batch of one image cannot train."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.BatchNorm1d(3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layer(images.flatten(1)[:, :3])


def test_a_batch_of_one_is_too_small_for_some_networks(digits: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    put("distill.batch", 1)(digits)
    assert errors(digits) == []
    consistency._draft.cache_clear()
    monkeypatch.setattr("pipeline.nets.build", lambda *_, **__: One())
    expected = "students.resnet8.batch: 1: BatchNorm in resnet8 needs 2 images or more"
    assert expected in errors(digits)
    consistency._draft.cache_clear()


def test_a_method_says_itself_what_it_cannot_do(digits: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, ...]] = []

    def look(_: object, *images: int) -> list[str]:
        asked.append(images)
        return ["methods.noise.level: 3: too loud"]

    monkeypatch.setattr(methods.load("noise"), "check", look, raising=False)
    assert errors(digits) == ["methods.noise.level: 3: too loud"]
    assert asked == [(1, 16, 10)]


def test_students_in_files_are_shown_with_their_hash(digits: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "net.py").write_bytes(b"raise SystemExit('never run')\n")
    digest = hashlib.sha256((tmp_path / "net.py").read_bytes()).hexdigest()
    put("students.resnet8.arch", f"python:{tmp_path}/net.py:build")(digits)
    (warning,) = check.find(Settings(digits)).warnings
    assert warning.startswith("students.resnet8.arch: ")
    assert warning.endswith(digest)
    put("trust", [digest])(digits)
    assert check.find(Settings(digits)).warnings == []
    put("students.resnet8.arch", "python:nowhere.py:build")(digits)
    assert check.find(Settings(digits)).warnings == ["students.resnet8.arch: nowhere.py: no such file"]


def test_a_flood_of_errors_is_cut_short(digits: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    digits["methods"]["noise"] |= {f"key{number}": 1 for number in range(1000)}
    monkeypatch.setattr(Settings, "read", lambda: Settings(digits))
    with pytest.raises(ParamsError, match=r"1000 errors") as caught:
        check.main()
    lines = str(caught.value).splitlines()
    assert len(lines) == 102
    assert lines[-1].strip() == "... and 900 more"
