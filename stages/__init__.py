"""One thin module per DVC stage: validate a slice of params.yaml, call one function, write one folder."""

import sys

from pipeline.core.errors import quiet_interrupt

if sys.argv[:1] == ["-m"]:  # a stage is being started, and its imports take seconds
    quiet_interrupt()
