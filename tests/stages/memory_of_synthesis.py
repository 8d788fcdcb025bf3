"""A command for the memory test: make shards with DeepInversion at 224 pixels, print the process's peak in bytes.

python memory_of_synthesis.py SHARDS GROUPS plain|hoard
"""

import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipeline import methods
from pipeline.classifier import Classifier, Teacher, TeacherCard
from pipeline.core.checkpoint import Checkpoint
from pipeline.core.device import Compute
from pipeline.core.params import build, read_params
from pipeline.core.rng import stream
from pipeline.methods import Batch, Run, Source
from pipeline.shards.executor import Executor
from pipeline.shards.make import ShardMaker, Workshop
from pipeline.shards.produce import produce
from pipeline.shards.work import ShardDirectory, plan

SHARD, GROUP, SIDE, CLASSES = 32, 4, 224, 10
PRESET = Path(__file__).resolve().parents[2] / "presets" / "imagenet.yaml"


def teacher() -> Teacher:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1),
        nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, CLASSES),
    )  # fmt: skip
    card = TeacherCard(
        arch="small", classes=tuple("0123456789"), channels=3, size=SIDE, mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225), batch_norm=True, sha256="5" * 64, accuracy=None, source="random weights",
    )  # fmt: skip
    return Classifier(net, card).freeze()


class Hoard:
    """A source with the mistake that the test looks for."""

    def __init__(self, source: Source) -> None:
        self.source, self.kept = source, []

    def draw(self, count: int, rng: torch.Generator) -> Batch:
        self.kept.append(self.source.draw(count, rng))
        return self.kept[-1]


def make(shards: int, groups: int, *, hoard: bool, folder: Path) -> None:
    block = read_params(PRESET)["methods"]["deepinversion"]
    del block["count"]
    block |= {"group": GROUP, "groups": groups, "warmup": 1}
    for phase in block["phases"]:
        phase["steps"] = 1
    method: Any = build(methods.load("deepinversion"), block, "methods.deepinversion")
    compute = Compute(device="cpu", precision="float32", channels_last=True, compile="never")
    asked = teacher()
    source = method.fit(Run(asked, stream(0, "fit"), Checkpoint(folder / "fit"), compute))
    workshop = Workshop(Hoard(source) if hoard else source, asked)
    maker = ShardMaker(lambda: workshop, 0, "deepinversion", "png", soft_targets=False)
    with ShardDirectory(folder, "deepinversion", {"shards": shards}) as work:
        produce(work, plan(shards * SHARD, SHARD, 0), maker, Executor())


def peak() -> int:
    # Not `getrusage`: its maximum outlives exec, so that a child of a large process begins with its parent's.
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def main() -> None:
    shards, groups, kind = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        make(int(shards), int(groups), hoard=kind == "hoard", folder=Path(folder))
    sys.stdout.write(str(peak()))


if __name__ == "__main__":
    main()
