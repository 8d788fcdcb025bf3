import pytest
import torch
from torch import nn

from pipeline.core.device import Compute
from pipeline.core.params import build


@pytest.fixture
def compute() -> Compute:
    block = {"device": "cpu", "precision": "float32", "channels_last": False, "compile": "never"}
    return build(Compute, block, "compute")


class Small(nn.Module):
    """Convolution, BatchNorm, linear: every kind of state there is."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(2)
        self.linear = nn.Linear(2, 3)

    def forward(self, images):
        return self.linear(self.bn1(self.conv1(images)).mean((2, 3)))


@pytest.fixture
def small() -> nn.Module:
    torch.manual_seed(0)
    return Small()
