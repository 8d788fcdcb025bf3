import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from ruamel.yaml import YAML

import pipeline.shards
from pipeline.shards.card import card
from pipeline.shards.manifest import Manifest
from pipeline.shards.reader import Dataset
from tests.shards.support import Data, publish_dataset

DATA = Data(classes=4, size=6, targets=True, train=(5, 5, 5, 5), holdout=(5,))


@pytest.fixture(scope="module", params=["png", "npy"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    publish_dataset(folder, replace(DATA, encoding=request.param))
    return folder


def manifest_of(folder: Path, **changes: object) -> Manifest:
    return Dataset.open(folder).manifest.model_copy(update=changes)


def front_matter(text: str) -> dict[str, object]:
    _, front, _ = text.split("---\n", 2)
    return YAML(typ="safe", pure=True).load(front)


def blocks(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def test_the_card_beside_a_dataset_is_a_function_of_its_manifest(folder: Path):
    assert (folder / "README.md").read_text(encoding="utf-8") == card(manifest_of(folder))


def test_the_front_matter_is_what_hubs_read(folder: Path):
    front = front_matter(card(manifest_of(folder)))
    assert front["license"] == "other"
    assert front["task_categories"] == ["image-classification"]
    assert front["size_categories"] == ["n<1K"]
    assert {"webdataset", "synthetic", "knowledge-distillation", "data-free"} <= set(front["tags"])  # pyright: ignore
    [config] = front["configs"]  # pyright: ignore
    for entry in config["data_files"]:
        assert sorted(path.name for path in folder.glob(entry["path"])) == sorted(
            shard.name for shard in Dataset.open(folder).manifest.entries(entry["split"])
        )
    assert [entry["split"] for entry in config["data_files"]] == ["train", "holdout"]


def test_every_field_every_class_and_the_teacher_are_described(folder: Path):
    manifest = manifest_of(folder)
    text = card(manifest)
    for name, field in manifest.fields.items():
        assert re.search(rf"^\| `\.{re.escape(name)}` \| {field.dtype} \|", text, re.MULTILINE)
    for number in range(4):
        assert f"| {number} | class {number} | {manifest.class_histogram[number]} |" in text
    assert manifest.teacher.sha256 in text
    assert f"{manifest.teacher_agreement:.2%}" in text
    assert "20 samples in `train` and 5 samples in `holdout`" in text
    assert '"steps": 3' in text


def test_the_code_in_the_card_runs(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    monkeypatch.setitem(sys.modules, "photogram", pipeline)  # the name under which it is installed
    monkeypatch.setitem(sys.modules, "photogram.shards", pipeline.shards)
    monkeypatch.chdir(folder)
    ours, tars, hub = blocks((folder / "README.md").read_text(encoding="utf-8"))
    spaces: list[dict[str, object]] = [{}, {}, {}]
    for code, space in zip((ours, tars, hub), spaces, strict=True):
        exec(code, space)
    samples = spaces[0]["samples"]
    assert len(samples.cls) == 20  # pyright: ignore
    listed = list(spaces[1]["dataset"])  # pyright: ignore
    assert [cls for _, _, cls in listed] == samples.cls.tolist()  # pyright: ignore
    assert torch.equal(torch.tensor([logits.tolist() for _, logits, _ in listed]), samples.logits)  # pyright: ignore
    assert spaces[2]["dataset"]["cls"][:] == samples.cls.tolist()  # pyright: ignore


def test_a_reference_made_of_real_images_says_so_and_is_not_tagged_data_free(folder: Path):
    text = card(manifest_of(folder, data_free=False, method="real"))
    assert "data-free" not in front_matter(text)["tags"]  # pyright: ignore
    assert "not data-free: its images are real training images" in text
    assert "the true label" in text
    assert "real training data itself" in text
    synthetic = card(manifest_of(folder))
    assert "no real image was used" in synthetic
    assert "can reveal what the model was trained on" in synthetic


def test_images_that_were_not_steered_are_labelled_by_the_teacher(folder: Path):
    steered, free = card(manifest_of(folder)), card(manifest_of(folder, steered=False))
    assert "teacher's first choice in" in steered
    assert "labelled by the teacher" not in steered
    assert "teacher's first choice in" not in free
    assert "they are labelled by the teacher" in free
    assert "| a class number: the teacher's first choice |" in free


def test_a_dataset_without_held_out_samples_lists_no_such_split(tmp_path: Path):
    assert "holdout" not in card(publish_dataset(tmp_path, replace(DATA, holdout=())))


def test_names_cannot_break_out_of_their_table_or_of_the_front_matter(folder: Path):
    manifest = manifest_of(folder)
    names = ("a|b", "`x`", "[link](http://e.x)", "{braces} <b>")
    teacher = manifest.teacher.model_copy(update={"classes": names, "arch": 'python:"x`: y".py:net'})
    text = card(manifest.model_copy(update={"teacher": teacher}))
    assert r"| 0 | a\|b |" in text
    assert r"| 2 | \[link\](http://e.x) |" in text
    assert "{braces} \\<b\\>" in text
    assert isinstance(front_matter(text)["pretty_name"], str)


@pytest.mark.parametrize(
    ("samples", "category"), [(999, "n<1K"), (1000, "1K<n<10K"), (40_000, "10K<n<100K"), (10**7, "10M<n<100M")]
)
def test_the_size_category_is_the_hubs(folder: Path, samples: int, category: str):
    manifest = manifest_of(folder)
    totals = manifest.samples.model_copy(update={"train": samples, "holdout": 0})
    assert front_matter(card(manifest.model_copy(update={"samples": totals})))["size_categories"] == [category]


def test_a_card_holds_no_time_and_no_place(folder: Path):
    text = card(manifest_of(folder))
    assert str(folder.parent) not in text
    assert not re.search(r"20\d\d-\d\d", text)
