import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline.core.device import Compute
from pipeline.teacher.model import Teacher, TeacherInfo

sys.path.insert(0, str(Path(__file__).parent))  # helper modules


@pytest.fixture
def compute() -> Compute:
    return Compute(device="cpu", precision="float32", channels_last=False, compile="never")


@pytest.fixture
def teacher() -> Teacher:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 6 * 6, 3))
    info = TeacherInfo(
        arch="none", classes=("a", "b", "c"), channels=1, size=8, mean=(0.5,), std=(0.25,), batch_norm=False,
        sha256="", accuracy=None, source="random weights",
    )  # fmt: skip
    return Teacher(net, info)
