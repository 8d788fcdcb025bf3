"""Where user code was built."""  # shim

from pipeline.classifier import CODE as KEPT_NAME
from pipeline.classifier import Built
from pipeline.classifier import build_network as build

__all__ = ["KEPT_NAME", "Built", "build"]
