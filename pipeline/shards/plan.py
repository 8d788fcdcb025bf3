"""Moved to `work` and `make`."""  # shim

from .make import ShardPlan as ShardPlan  # noqa: PLC0414 # shim
from .work import plan as plan  # noqa: PLC0414 # shim
from .work import select as select  # noqa: PLC0414 # shim
