"""Moved to `pipeline.sources`."""  # shim

from pipeline.sources import CheckpointFile, Python, TeacherBlock, Timm, Torchvision, Train, parse  # noqa: F401
