"""What `dvc repro` runs after each kind of change: the tests run DVC and the stages for real, on tiny parameters."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipeline import nets

HARMLESS = "\n\n_renamed = 1  # code that changes no byte of any output\n"


def cells(method: str, student: str, seed: int = 0) -> set[str]:
    """The stages of one cell."""
    return {f"distill@{method}-{student}-{seed}", f"evaluate@{method}-{student}-{seed}"}


@pytest.mark.slow
def test_the_rerun_table_in_small(project) -> None:
    """First run, then each file of code fingerprints against what was imported, then a student's parameter and back."""
    everything = {"teacher", "synthesize@noise", *cells("noise", "small"), "report"}
    assert project.repro() == everything

    for trace, consumer in {
        "teacher": "teacher",
        "synthesize@noise": "methods/noise",
        "distill@noise-small-0": "students/small",
        "evaluate@noise-small-0": "evaluate/small",
        "report": "report",
    }.items():
        assert modules(project, consumer) == imported(project, consumer, trace), consumer

    project.params["students"]["small"]["loss"] = {"kl": {"temperature": 5}}
    project.write_params()
    assert project.repro() == {*cells("noise", "small"), "report"}

    del project.params["students"]["small"]["loss"]
    project.write_params()
    assert project.repro() == set()


def modules(project, consumer: str) -> set[str]:
    """The modules that a consumer's file lists, data files and parameters apart."""
    lines = (project.root / "data" / "code" / consumer).read_text().splitlines()[1:]
    return {name for name in (line.split("  ")[1] for line in lines) if "/" not in name and ":" not in name}


def imported(project, consumer: str, trace: str) -> set[str]:
    """The modules that a stage had imported by its end; of registries that load all their files, those it lists.

    A term that no block names is never made, and of all sources of real data one is read.
    """
    registered = ("pipeline.losses.", "pipeline.real.")
    listed = modules(project, consumer)
    names = (project.traces / trace).read_text().split()
    return {name for name in names if name in listed or not name.startswith(registered)}


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory, make_project):
    """Two methods, two students of different architectures, the reference; everything has run once."""
    project = make_project(tmp_path_factory.mktemp("grown"))
    project.params["matrix"] |= {
        "methods": ["noise", "zskd", "real"],
        "references": ["real"],
        "students": ["small", "other"],
    }
    project.write_params()
    project.repro()
    project.git("add", "-A")
    project.git("commit", "-q", "-m", "run")
    return project


@pytest.mark.slow
class TestRerunTable:
    def test_nothing_runs_when_nothing_changed(self, grown) -> None:
        assert grown.repro() == set()

    def test_every_consumer_imports_exactly_what_its_file_lists(self, grown) -> None:
        for trace in grown.traces.iterdir():
            stage, _, names = trace.name.partition("@")
            folder = {"synthesize": "methods", "distill": "students", "reference": "references"}.get(stage, "evaluate")
            consumer = f"{folder}/{names.split('-')[stage != 'synthesize']}" if names else stage
            if stage != "code":
                assert modules(grown, consumer) == imported(grown, consumer, trace.name), trace.name

    def test_a_students_parameter_runs_that_student(self, grown) -> None:
        grown.params["students"]["other"]["optimizer"] = {"learning_rate": 0.004}
        grown.write_params()
        try:
            assert grown.repro() == {*student("other"), "report"}
        finally:
            del grown.params["students"]["other"]["optimizer"]
            grown.write_params()
        assert grown.repro() == set()

    def test_an_architectures_code_runs_its_students(self, grown) -> None:
        before = (grown.root / "pipeline/nets/resnet.py").read_text()
        grown.edit("pipeline/nets/resnet.py", lambda text: text + HARMLESS)
        ran = grown.repro()
        # The weights come out the same; what they cost to train is measured anew, and may differ in the report.
        assert ran - {"report"} == student("other")
        (grown.root / "pipeline/nets/resnet.py").write_text(before)
        assert grown.repro() == set()

    def test_a_new_student_in_a_new_architecture_file_adds_its_own(self, grown) -> None:
        text = (grown.root / "pipeline/nets/lenet.py").read_text().replace('"lenet5', '"newnet5')
        (grown.root / "pipeline/nets/newnet.py").write_text(text)
        assert grown.repro() == set()
        grown.params["students"]["fresh"] = {"arch": "newnet5_half"}
        grown.params["matrix"]["students"].append("fresh")
        grown.write_params()
        assert grown.repro() == {*student("fresh"), "report"}
        grown.params["matrix"]["students"].remove("fresh")
        grown.write_params()
        (grown.root / "pipeline/nets/newnet.py").unlink()
        grown.repro()

    def test_a_methods_parameter_runs_that_methods_branch(self, grown) -> None:
        grown.params["methods"]["zskd"]["temperature"] = 5
        grown.write_params()
        assert grown.repro() == {"synthesize@zskd", *cells("zskd", "small"), *cells("zskd", "other"), "report"}
        grown.params["methods"]["zskd"]["temperature"] = 20
        grown.write_params()
        assert grown.repro() == set()

    def test_a_comment_in_a_method_runs_nothing(self, grown) -> None:
        grown.edit("pipeline/methods/zskd.py", lambda text: text.replace("\n\n\n", "\n\n\n# A remark.\n", 1))
        assert grown.repro() == set()

    def test_code_that_makes_the_same_images_stops_there(self, grown) -> None:
        shards = grown.bytes_of("data/synthetic/zskd")
        grown.edit("pipeline/methods/zskd.py", lambda text: text + HARMLESS)
        assert grown.repro() <= {"synthesize@zskd", "report"}
        assert grown.bytes_of("data/synthetic/zskd") == shards

    def test_growing_the_count_makes_only_the_missing_shards(self, grown) -> None:
        before = grown.bytes_of("data/synthetic/noise")
        made = grown.root / ".work" / "synthetic" / "noise"
        times = {path: path.stat().st_mtime_ns for path in made.rglob("*.tar")}
        grown.params["methods"]["noise"]["count"] = 60
        grown.write_params()
        assert grown.repro() == {"synthesize@noise", *cells("noise", "small"), *cells("noise", "other"), "report"}
        after = grown.bytes_of("data/synthetic/noise")
        assert len([name for name in after if name.startswith("train")]) == 3
        assert all(after[name] == before[name] for name in before if name.endswith(".tar"))
        assert {path: path.stat().st_mtime_ns for path in times} == times
        grown.params["methods"]["noise"]["count"] = 20
        grown.write_params()
        assert grown.repro() == set()
        assert grown.bytes_of("data/synthetic/noise") == before

    def test_metrics_plots_and_experiments_work(self, grown) -> None:
        shown = json.loads(grown.run("dvc", "metrics", "show", "--json"))
        assert any("summary.json" in name for name in shown[""]["data"])
        grown.run("dvc", "plots", "show", "--out", "plots")
        page = (grown.root / "plots" / "index.html").read_text()
        assert "similarity.png" in page
        shutil.rmtree(grown.root / "plots")
        grown.git("add", "-A")
        grown.git("commit", "-q", "-m", "before the experiment")
        ran = grown.run("dvc", "exp", "run", "-S", "+students.other.loss.kl.temperature=7")
        assert "Running stage 'distill@zskd-other-0'" in ran
        assert "Running stage 'distill@zskd-small-0'" not in ran
        grown.git("checkout", "-q", ".")
        # What it cost may come back from another, equal run; nothing expensive may run.
        assert grown.repro() <= {"report"}

    def test_a_dataset_is_pushed_and_fetched_alone(self, grown, tmp_path: Path) -> None:
        grown.git("add", "-A")
        if grown.git("status", "--porcelain"):
            grown.git("commit", "-q", "-m", "before the push")
        grown.run("dvc", "remote", "add", "--force", "--default", "shared", str(tmp_path / "remote"))
        grown.git("commit", "-q", "-am", "a remote")
        grown.run("dvc", "push", "--quiet")
        fetched = tmp_path / "fetched"
        grown.run("dvc", "get", "--quiet", str(grown.root), "data/synthetic/zskd", "--out", str(fetched))
        assert {path.name: path.read_bytes() for path in fetched.iterdir()} == grown.bytes_of("data/synthetic/zskd")
        grown.run("python", "-m", "pipeline.shards", "verify", str(fetched))

    def test_stored_labels_need_neither_teacher_nor_real_data(self, grown) -> None:
        name = "zskd-small-0"
        before = grown.bytes_of(f"data/students/{name}")
        aside = grown.root / "aside"
        aside.mkdir()
        for folder in ("teacher", "synthetic/real", "students"):
            (grown.root / "data" / folder).rename(aside / folder.replace("/", "-"))
        grown.params["data"] = {"source": "folder", "root": "/nowhere", "size": 16, "channels": 1}
        grown.params["teacher"] = {"source": "checkpoint", "path": "/nowhere"}
        grown.write_params()
        grown.run("python", "-m", "stages.distill", "zskd", "small", "0")
        assert grown.bytes_of(f"data/students/{name}") == before


def student(name: str) -> set[str]:
    """The stages of one student of the grown project."""
    reference = {f"reference@real-{name}-0", f"evaluate_reference@real-{name}-0"}
    return {*cells("noise", name), *cells("zskd", name), *cells("real", name), *reference}


@pytest.mark.slow
def test_students_can_be_finished_on_a_few_real_images(tmp_path: Path, make_project) -> None:
    project = make_project(tmp_path)
    project.params["matrix"] |= {"methods": ["noise", "real"], "few_shot": ["noise"]}
    project.params["methods"]["real"]["count"] = 100
    project.write_params()
    assert "is right" in project.run("python", "-m", "stages.check")
    finishing = {"few_shot@noise-small-0", "evaluate_few_shot@noise-small-0"}
    assert project.repro() >= {*cells("noise", "small"), *cells("real", "small"), *finishing}
    assert modules(project, "few_shot/small") == imported(project, "few_shot/small", "few_shot@noise-small-0")
    metrics = json.loads((project.root / "data/metrics/noise_few_shot-small-0.json").read_text())
    assert (metrics["data_free"], metrics["method"]) == (False, "noise_few_shot")
    assert json.loads((project.root / "data/metrics/noise-small-0.json").read_text())["data_free"]
    card = json.loads((project.root / "data/students/noise_few_shot-small-0/card.json").read_text())
    start = json.loads((project.root / "data/students/noise-small-0/card.json").read_text())
    assert card["few_shot"]["start"] == start["sha256"] != card["sha256"]
    assert "| small | noise_few_shot | not data-free |" in (project.root / "data/report/report.md").read_text()

    project.params["few_shot"]["optimizer"]["learning_rate"] = 0.01
    project.write_params()
    assert project.repro() - {"report"} == finishing
    project.params["matrix"]["few_shot"] = []
    project.write_params()
    assert project.repro() == {"report"}
    assert "few_shot" not in (project.root / "data/report/report.md").read_text()


@pytest.mark.slow
def test_without_any_data_agreement_is_reported(tmp_path: Path, make_project) -> None:
    project = make_project(tmp_path)
    net = nets.build("resnet8", 10, 1, 16, rng=torch.Generator().manual_seed(0))
    save_file(net.state_dict(), project.root / "weights.safetensors")
    project.params["data"] = {"source": "none"}
    project.params["teacher"] = {
        "source": "checkpoint",
        "path": "weights.safetensors",
        "key": None,
        "arch": "resnet8",
        "classes": 10,
        "channels": 1,
        "size": 16,
        "mean": [0.5],
        "std": [0.5],
    }
    project.params["matrix"]["methods"] = ["zskd"]
    project.write_params()
    assert "is right" in project.run("python", "-m", "stages.check")
    project.repro()
    metrics = json.loads((project.root / "data/metrics/zskd-small-0.json").read_text())
    assert metrics["accuracy"] is None
    assert 0 <= metrics["agreement"] <= 1
    assert metrics["agreement_on"] == "holdout"
    report = (project.root / "data/report/report.md").read_text()
    assert "no accuracy can be given" in report
    assert "No accuracy can be given" in metrics["note"]
    assert (project.root / "data/report/index.html").exists()


@pytest.mark.slow
def test_a_proxy_is_measured_again_when_its_code_changes(tmp_path: Path, make_project) -> None:
    project, name = make_project(tmp_path), "adaptive_deepinversion"
    block = project.params["methods"][name]
    block |= {"group": 20, "images": 20, "rounds": 1}
    block["phases"][0]["steps"] = 2
    block["proxy"]["arch"] = "resnet8"
    block["proxy"] |= {"epochs": 1, "steps_per_epoch": 2, "batch": 8}
    project.params["teacher"]["arch"] = "lenet5_bn"
    project.params["matrix"] |= {"methods": [name], "proxies": [name]}
    project.write_params()
    assert "is right" in project.run("python", "-m", "stages.check")
    made = {f"synthesize@{name}", f"evaluate_proxy@{name}"}
    assert project.repro() == {"teacher", *made, *cells(name, "small"), "report"}
    consumer = f"evaluate_proxy/{name}"
    assert modules(project, consumer) == imported(project, consumer, f"evaluate_proxy@{name}")
    assert json.loads((project.root / f"data/metrics/{name}-proxy.json").read_text())["arch"] == "resnet8"
    assert f"{name}-proxy.json" in project.run("dvc", "metrics", "show")

    project.edit("pipeline/nets/resnet.py", lambda text: text + HARMLESS)
    assert project.repro() - {"report"} == made  # not the student, which is of another file
    assert project.repro() == set()
