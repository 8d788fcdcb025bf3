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
    peak = 0  # where the system does not tell
    if sys.platform == "linux":
        found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
        peak = int(found[1]) * 1024 if found else 0
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    sys.stdout.write(json.dumps({"error": error, "peak": peak}) + "\n")
    sys.stdout.flush()


def main() -> None:
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (LIMIT, LIMIT))
    answer(None)
    for line in sys.stdin:
        answer(read(Path(line.rstrip("\n"))))


if __name__ == "__main__":
    main()
