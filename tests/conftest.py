"""What every test may lean on."""

import os
import signal
from pathlib import Path

import pytest
import torch

# Small networks gain nothing from threads, and tests may share a machine.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell that starts something in the background lets it ignore Ctrl-C, and so all that it starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def project_root() -> Path:
    """The checkout that is being tested."""
    return ROOT


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the caller's settings leaks into a test."""
    for name in ("PHOTOGRAM_FAULT", "PHOTOGRAM_WORK_DIR", "PHOTOGRAM_WORKERS"):
        monkeypatch.delenv(name, raising=False)
