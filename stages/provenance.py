"""Where and how long: what varies from machine to machine, kept beside the outputs and never in them."""

import datetime
import importlib.metadata
import os
import platform
from pathlib import Path

import torch

from pipeline.core.device import Compute
from pipeline.core.files import canonical_json, write_atomic
from stages.settings import DATA

__all__ = ["PROVENANCE", "write_provenance"]

PROVENANCE = DATA / "provenance"
_PACKAGES = ("numpy", "pillow", "scipy", "webdataset")


def write_provenance(path: Path, *, seconds: float, images: int, workers: int, compute: Compute) -> None:
    """Write a provenance file.

    Args:
        path: below `PROVENANCE`.
        seconds: of work, summed over the workers and over resumed runs.
        images: that were made, or that were trained on.
        workers: processes that did it.
        compute: names the device.

    Raises:
        WorkError: the disk is full.
    """
    device = compute.torch_device()
    record = {
        "seconds": round(seconds, 1),
        "images": images,
        "workers": workers,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "precision": compute.precision,
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        **{name: importlib.metadata.version(name) for name in _PACKAGES},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, canonical_json(record))


def _cpu() -> str:
    """The processor's marketing name where the system tells it, else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
