"""What many tests need: a small machine, small networks, small blocks."""

from pathlib import Path

from pipeline.core.device import Compute

__all__ = ["CPU", "ROOT"]

ROOT = Path(__file__).resolve().parent.parent
CPU = Compute(device="cpu", precision="float32", channels_last=False, compile="never")
