"""Opens the datasets named on stdin, one a line, in a process of its own with little memory; answers in JSON."""

import json
import re
import resource
import sys
from pathlib import Path

from pipeline.core.errors import ShardError
from pipeline.shards.reader import Dataset

LIMIT = 4 << 30


def read(folder: Path) -> str | None:
    try:
        Dataset.open(folder).verify()
    except ShardError as error:
        return str(error)
    return None


def answer(error: str | None) -> None:
    peak = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert peak is not None
    sys.stdout.write(json.dumps({"error": error, "peak": int(peak[1]) * 1024}) + "\n")
    sys.stdout.flush()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT, LIMIT))
    answer(None)
    for line in sys.stdin:
        answer(read(Path(line.rstrip("\n"))))


if __name__ == "__main__":
    main()
