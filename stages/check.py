"""`python -m stages.check`: is params.yaml right? Every block, all errors at once, before anything runs.

A stage validates only its own slice, so a mistake elsewhere cannot stop it; this command looks at everything.
"""

import re
import sys
from collections.abc import Callable, Iterator
from typing import Any, cast

from pipeline import datasets, nets
from pipeline.core.errors import ParamsError, PipelineError, run_or_exit
from pipeline.core.params import build
from pipeline.evaluate import EvaluateParams
from pipeline.report import Matrix, ReportParams
from pipeline.shards.plan import plan
from pipeline.teacher import sources
from stages.method import ShardParams, read_method
from stages.settings import PARAMS, Settings

__all__ = ["main", "problems"]
