"""The path of the imagenet preset in small: 224 pixels, two resolutions, a teacher of torchvision, random weights."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline import methods, nets
from pipeline.classifier import Classifier, Teacher, TeacherCard
from pipeline.core.checkpoint import Checkpoint
from pipeline.core.device import Compute
from pipeline.core.params import Block, build, read_params
from pipeline.core.rng import stream
from pipeline.methods import Run
from pipeline.shards.executor import Executor
from pipeline.shards.make import ShardMaker, Workshop
from pipeline.shards.produce import produce
from pipeline.shards.publish import describe, publish
from pipeline.shards.reader import Dataset
from pipeline.shards.work import ShardDirectory, plan, work_key

ROOT = Path(__file__).resolve().parents[2]
MEMORY = Path(__file__).with_name("memory_of_synthesis.py")
CLASSES, SIDE = 1000, 224


def preset() -> dict[str, Any]:
    return read_params(ROOT / "presets" / "imagenet.yaml")


def shorten(params: dict[str, Any]) -> None:
    """Two steps instead of thousands, four images instead of a hundred thousand; everything else as it stands."""
    params["shards"] |= {"size": 4, "holdout": 4}
    for block in params["methods"].values():
        block["count"] = 8
    for phase, steps in zip(params["methods"]["deepinversion"]["phases"], (2, 1), strict=True):
        phase["steps"] = steps
    params["methods"]["deepinversion"] |= {"group": 2, "groups": 2, "warmup": 1}
    params["distill"] |= {"batch": 4, "epochs": 1, "steps_per_epoch": 2, "warmup_epochs": 0, "memory_mb": 1}
    params["evaluate"]["batch"] = 4


def validation_folder(root: Path, images: int) -> None:
    """What the preset asks for: a folder for each class; photographs of the usual shape in some of them."""
    rng = np.random.default_rng(0)
    for label in range(CLASSES):
        folder = root / "test" / f"n{label:08d}"
        folder.mkdir(parents=True)
        if label < images:
            pixels = rng.integers(0, 256, (300, 400, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"ILSVRC2012_val_{label:08d}.JPEG")


@pytest.mark.slow
def test_the_whole_path_at_the_presets_size(tmp_path: Path, make_project) -> None:
    project = make_project(tmp_path)
    validation_folder(project.root / "photographs", images=6)
    params = preset()
    shorten(params)
    name = params["teacher"]["name"]
    net = nets.build(f"torchvision:{name}", CLASSES, 3, SIDE, rng=torch.Generator().manual_seed(0))
    save_file(net.state_dict(), project.root / "weights.safetensors")
    given = {key: params["teacher"][key] for key in ("size", "mean", "std")}
    params["teacher"] = given | {
        "source": "checkpoint", "path": "weights.safetensors", "key": None, "arch": f"torchvision:{name}",
        "classes": None, "channels": 3,
    }  # fmt: skip
    params["data"]["root"] = "photographs"
    params["matrix"] |= {"methods": ["noise", "deepinversion"], "students": ["resnet18"]}
    project.params = params
    project.write_params()
    assert "is right" in project.run("python", "-m", "stages.check")

    assert project.repro() == {
        "teacher", "synthesize@noise", "synthesize@deepinversion", "distill@noise-resnet18-0",
        "distill@deepinversion-resnet18-0", "evaluate@noise-resnet18-0", "evaluate@deepinversion-resnet18-0", "report",
    }  # fmt: skip
    for method in ("noise", "deepinversion"):
        project.run("python", "-m", "pipeline.shards", "verify", f"data/synthetic/{method}")
        dataset = Dataset.open(project.root / "data" / "synthetic" / method)
        assert dataset.load("train").images.shape == (8, 3, SIDE, SIDE)
        assert dataset.load("holdout").logits.shape == (4, CLASSES)
        metrics = json.loads((project.root / f"data/metrics/{method}-resnet18-0.json").read_text())
        assert (metrics["arch"], metrics["samples"], metrics["agreement_on"]) == ("torchvision:resnet18", 6, "test")
        assert 0 <= metrics["accuracy"] <= metrics["top5"] <= 1
        assert np.isfinite(metrics["holdout_kl"])
    made = Dataset.open(project.root / "data/synthetic/deepinversion").manifest
    assert [phase["pool"] for phase in made.method_params["phases"]] == [2, 1]
    assert "deepinversion" in (project.root / "data/report/report.md").read_text()
    assert (project.root / "data/report/index.html").exists()


SMALL = 32  # px


class Recorded(nn.Module):
    """A network, and how many images of which size it has seen."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.seen: Counter[tuple[int, int]] = Counter()

    def forward(self, images: Tensor) -> Tensor:
        self.seen[len(images), images.shape[-1]] += 1
        return self.net(images)


def small_teacher() -> Teacher:
    net = Recorded(nets.build("resnet8", 10, 3, SMALL, rng=torch.Generator().manual_seed(0)))
    card = TeacherCard(
        arch="resnet8", classes=tuple("0123456789"), channels=3, size=SMALL, mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225), batch_norm=True, sha256="5" * 64, accuracy=None, source="random weights",
    )  # fmt: skip
    return Classifier(net, card).freeze()


def dataset_of(block: dict[str, Any], teacher: Teacher, folder: Path) -> Dataset:
    """Two training shards and a held-out one of eight images, as the stage makes them."""
    compute = Compute(device="cpu", precision="float32", channels_last=True, compile="never")
    folder.mkdir()
    method: Any = build(methods.load("deepinversion"), block, "methods.deepinversion")
    source = method.fit(Run(teacher, stream(0, "fit"), Checkpoint(folder / "fit"), compute))
    teacher.net.seen.clear()  # what it took to measure the step
    plans = plan(16, 8, 8)
    params = Block.model_dump(method, mode="json")
    key = work_key(
        method="deepinversion", params=params, seed=0, teacher=teacher.card.sha256, encoding="png", size=8, code="",
        compute=compute,
    )  # fmt: skip
    maker = ShardMaker(lambda: Workshop(source, teacher), 0, "deepinversion", "png", soft_targets=False)
    with ShardDirectory(folder, "deepinversion", key) as work:
        records = produce(work, plans, maker, Executor())
        manifest = describe(
            plans, records, maker, params=params, data_free=True, steered=True, teacher=teacher.card, attachments=()
        )
        publish(work, manifest, folder / "out")
    return Dataset.open(folder / "out")


def small_block() -> dict[str, Any]:
    params = preset()
    shorten(params)
    block = params["methods"]["deepinversion"]
    del block["count"]
    return block | {"group": 4, "groups": 1}


def test_both_resolutions_leave_their_mark_on_shards(tmp_path: Path) -> None:
    teacher = small_teacher()
    block = small_block()
    both = dataset_of(block, teacher, tmp_path / "both")
    # Three shards of two groups, each for two steps at half and one at full size; then each shard is labelled whole.
    assert teacher.net.seen == {(4, SMALL // 2): 3 * 2 * 2, (4, SMALL): 3 * 2 * 1, (8, SMALL): 3}

    images = both.load("train").images
    assert images.shape == (16, 3, SMALL, SMALL)
    for number, phases in enumerate((block["phases"][:1], block["phases"][1:])):
        other = dataset_of(block | {"phases": phases}, small_teacher(), tmp_path / f"phase{number}")
        assert not torch.equal(images, other.load("train").images)


def test_stored_logits_are_the_teachers_on_stored_pixels(tmp_path: Path) -> None:
    teacher = small_teacher()
    samples = dataset_of(small_block(), teacher, tmp_path / "made").load("holdout")
    with torch.no_grad():
        expected = teacher(samples.images.float() / 255)
    torch.testing.assert_close(samples.logits.float(), expected, rtol=1e-3, atol=1e-3)


def test_a_shard_holds_whole_groups_of_the_presets_size() -> None:
    params = preset()
    group = params["methods"]["deepinversion"]["group"]
    assert params["shards"]["size"] % group == 0
    assert params["methods"]["deepinversion"]["count"] % params["shards"]["size"] == 0


def peak(shards: int, groups: int = 1, *, hoard: bool = False) -> int:
    """The most memory that a process held while it made so many shards at 224 pixels, in bytes."""
    command = [sys.executable, str(MEMORY), str(shards), str(groups), "hoard" if hoard else "plain"]
    # Large tensors go back to the system when they are freed: what is measured is what is held, not glibc's leftovers.
    allocator = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
    environment = os.environ | allocator | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="a process's own peak is read from /proc")
def test_memory_is_bounded_by_the_batch_and_not_by_the_dataset() -> None:
    few, many = 2, 10
    images = (many - few) * 32 * 3 * SIDE * SIDE  # bytes of the further images, as uint8; as they are drawn, 4 times it
    small, large = peak(few), peak(many)
    assert large - small < images / 4
    # The measure would notice: a source that keeps what it has drawn, and a larger batch.
    assert peak(many, hoard=True) - large > 3 * images
    assert peak(few, groups=8) - small > images
