import pytest
import torch
from torch import nn


@pytest.fixture
def small() -> nn.Module:
    """Convolution, BatchNorm, linear: every kind of state there is."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 3))
