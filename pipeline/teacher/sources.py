"""Moved to `pipeline.sources`."""  # shim

from pathlib import Path

from pipeline import sources
from pipeline.classifier import Teacher
from pipeline.core.checkpoint import Checkpoint
from pipeline.core.device import Compute
from pipeline.real import DataBlock
from pipeline.sources import TeacherBlock, parse

__all__ = ["TeacherBlock", "make_teacher", "parse"]


def make_teacher(
    params: TeacherBlock, data: DataBlock, trust: tuple[str, ...], compute: Compute, seed: int, work: Path
) -> Teacher:
    """As `sources.make_teacher`; the data's digest must be a part of the work directory's key instead."""
    found = sources.Data.read(params, data)
    state = Checkpoint(work / f"teacher-{(found.digest() or '')[:16]}.safetensors")
    return sources.make_teacher(params, found, trust, compute, seed, state)
