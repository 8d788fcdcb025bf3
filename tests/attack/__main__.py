"""Attack the project: `make attack`. It resumes where it was stopped, and prints the score card.

Every trial is one line of attack.jsonl (or `--log`): what was done, how it ended. A trial that stands there is not made
again. Good is: the very bytes of an undisturbed run; or one line of error that names the file, after whose cure the
bytes are those. Bad is everything else: other bytes, a traceback, a hang, an error of many lines.
"""

import argparse
import json
import sys
import tempfile
import time
import zlib
from pathlib import Path
from typing import Any

import torch

from tests.attack.trials import KINDS, Bench

parser = argparse.ArgumentParser(prog="python -m tests.attack", description=__doc__.splitlines()[0])
parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"of {', '.join(KINDS)}; default: all of them")
parser.add_argument("--share", type=float, default=1.0, help="of the trials of each kind; default: all")
parser.add_argument("--log", type=Path, default=Path("attack.jsonl"))


def main() -> int:
    """Make the missing trials, print the card; the status is 1 when one ended badly."""
    given = parser.parse_args()
    if unknown := [name for name in given.kinds if name not in KINDS]:
        parser.error(f"{unknown[0]}: no such kind of attack; there are {', '.join(KINDS)}")
    torch.set_num_threads(1)
    done = _done(given.log)
    with tempfile.TemporaryDirectory(prefix="attack-") as name, given.log.open("a") as log:
        bench = Bench(Path(name))
        for kind in given.kinds or KINDS:
            trials, attack = KINDS[kind]
            for number in range(max(1, int(trials * given.share))):
                if (kind, number) in done:
                    continue
                start = time.monotonic()
                what, verdict = attack(bench, number, zlib.crc32(f"{kind}/{number}".encode()))
                record = {"kind": kind, "number": number, "what": what, "verdict": verdict}
                record["seconds"] = round(time.monotonic() - start, 2)
                done[kind, number] = record
                log.write(json.dumps(record) + "\n")
                log.flush()
                if verdict.startswith("BAD"):
                    sys.stderr.write(f"{kind} {number}: {what}: {verdict}\n")
    sys.stdout.write(card(list(done.values())))
    return any(record["verdict"].startswith("BAD") for record in done.values())


def card(records: list[dict[str, Any]]) -> str:
    """The score card: a row of Markdown for each kind of attack."""
    lines = [
        "| attack | tried | same bytes | refused, then the same bytes | bad | minutes |",
        "|---|---|---|---|---|---|",
    ]
    for kind in KINDS:
        ended = [record for record in records if record["kind"] == kind]
        same, refused = (sum(record["verdict"].startswith(word) for record in ended) for word in ("same", "refused"))
        minutes = sum(record["seconds"] for record in ended) / 60
        bad = len(ended) - same - refused
        lines.append(f"| {kind} | {len(ended)} | {same} | {refused} | {bad} | {minutes:.1f} |")
    return "\n".join([*lines, ""])


def _done(log: Path) -> dict[tuple[str, int], dict[str, Any]]:
    lines = log.read_text().splitlines() if log.exists() else []
    records = [json.loads(line) for line in lines if line.endswith("}")]
    return {(record["kind"], record["number"]): record for record in records}


if __name__ == "__main__":
    sys.exit(main())
