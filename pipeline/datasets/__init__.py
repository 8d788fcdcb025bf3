"""Moved to `pipeline.real`."""  # shim

from pipeline.real import DataBlock, Digits, Folder, Labelled, NoData, Torchvision, load, parse  # noqa: F401
