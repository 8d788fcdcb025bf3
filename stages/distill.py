"""Stage `distill`: one student, trained on one dataset, from its shards alone."""

import argparse
import csv
import io
import time

from pipeline.core.checkpoint import Checkpoint
from pipeline.core.errors import run_or_exit
from pipeline.core.files import sha256_file, write_atomic
from pipeline.distill import merge, train
from pipeline.metrics import cell_name
from pipeline.shards.reader import Dataset
from pipeline.teacher.model import Teacher
from stages.provenance import PROVENANCE, write_provenance
from stages.settings import DATA, Settings, code_of, lesson_of
from stages.workspace import workspace

__all__ = ["main"]
