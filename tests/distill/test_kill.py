"""Training processes that are killed, and run again."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.core.device import Compute
from pipeline.core.params import build
from pipeline.distill import DistillParams, train, write_history
from pipeline.shards.reader import Dataset

WORKER = """
import json, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from pipeline.core.device import Compute
from pipeline.core.params import build
from pipeline.distill import DistillParams, train, write_history
from pipeline.shards.reader import Dataset
folder, block, work, out = sys.argv[1:]
compute = Compute(device="cpu", precision="float32", channels_last=True, compile="never")
print("started", flush=True)
student, history = train(
    Dataset.open(Path(folder)), "resnet8", build(DistillParams, json.loads(block), "distill"), 3, compute, Path(work)
)
student.save(Path(out))
write_history(history, Path(out) / "history.csv")
"""
FILES = ("model.safetensors", "card.json", "history.csv")


def launch(root: Path, dataset: Path, block: str, work: Path, out: Path, **environment: str) -> subprocess.Popen:
    work.mkdir(exist_ok=True)
    command = [sys.executable, "-c", WORKER, str(dataset), block, str(work), str(out)]
    env = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", **environment}
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def content(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in FILES}


@pytest.fixture
def block(params) -> str:
    augment = params().augment.model_dump() | {"rotate": 10.0, "crop": 1}
    return params(epochs=6, steps_per_epoch=3, mixup=0.2, augment=augment).model_dump_json()


def run_here(dataset: Dataset, block: str, work: Path, out: Path) -> None:
    """What a worker does, in this process."""
    work.mkdir(exist_ok=True)
    compute = Compute(device="cpu", precision="float32", channels_last=True, compile="never")
    params = build(DistillParams, json.loads(block), "distill")
    student, history = train(dataset, "resnet8", params, 3, compute, work)
    student.save(out)
    write_history(history, out / "history.csv")


@pytest.mark.parametrize(
    "point",
    [
        "write:written:3",
        pytest.param("write:opened:1", marks=pytest.mark.slow),
        pytest.param("write:replaced:5", marks=pytest.mark.slow),
        pytest.param("training:epoch:6", marks=pytest.mark.slow),
    ],
)
def test_killed_around_a_checkpoint_it_ends_as_if_nothing_had_happened(tmp_path, small_set, block, project_root, point):
    process = launch(project_root, small_set.folder, block, tmp_path / "work", tmp_path / "out", AFTERIMAGE_FAULT=point)
    process.communicate(timeout=300)
    assert process.returncode == 137
    run_here(small_set, block, tmp_path / "work", tmp_path / "out")
    run_here(small_set, block, tmp_path / "calm", tmp_path / "golden")
    assert content(tmp_path / "out") == content(tmp_path / "golden")


@pytest.mark.slow
def test_twenty_kills_at_random_moments_change_nothing(tmp_path, small_set, params, project_root):
    block = params(epochs=40, steps_per_epoch=5, mixup=0.2).model_dump_json()
    moments = random.Random(0)
    run = (project_root, small_set.folder, block, tmp_path / "work", tmp_path / "out")
    for _ in range(20):
        process = launch(*run)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(moments.uniform(0, 0.6))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    run_here(small_set, block, tmp_path / "work", tmp_path / "out")
    run_here(small_set, block, tmp_path / "calm", tmp_path / "golden")
    assert content(tmp_path / "out") == content(tmp_path / "golden")
