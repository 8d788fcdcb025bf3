"""What many tests need: a small machine, small networks, small blocks."""

from pathlib import Path
from typing import Any

from pipeline import real, sources
from pipeline.classifier import Teacher
from pipeline.core.checkpoint import Checkpoint
from pipeline.core.device import Compute

__all__ = ["CPU", "NO_DATA", "ROOT", "make_teacher"]

ROOT = Path(__file__).resolve().parent.parent
CPU = Compute(device="cpu", precision="float32", channels_last=False, compile="never")

# -- teachers of every source ----------------------------------------------------------------------------------------

NO_DATA = real.parse({"source": "none"})


def make_teacher(
    block: dict[str, Any], work: Path, data: real.DataBlock = NO_DATA, trust: tuple[str, ...] = (), seed: int = 0
) -> Teacher:
    """What the stage does; a training keeps its state in `work`."""
    params = sources.parse(block)
    state = Checkpoint(work / "teacher.safetensors")
    return sources.make_teacher(params, sources.Data.read(params, data), trust, CPU, seed, state)
