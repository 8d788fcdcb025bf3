"""Every benchmark, or those that are named: `python -m benchmarks`, or `make bench`."""

import argparse
import sys
from importlib import import_module

TITLES = {
    "pixels": "steps of the pixel methods against plain loops",
    "adversarial": "iterations of the generator methods against plain ones",
    "reading": "verified reading of shards",
}

parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(TITLES)}; default: all of them")
names = parser.parse_args().names or list(TITLES)
if unknown := [name for name in names if name not in TITLES]:
    parser.error(f"{unknown[0]}: no such benchmark; there are {', '.join(TITLES)}")
sys.argv[1:] = []  # each has options of its own
for name in names:
    sys.stdout.write(f"== {TITLES[name]} ==\n")
    import_module(f"benchmarks.{name}").main()
