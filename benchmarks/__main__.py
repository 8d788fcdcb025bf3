"""Every benchmark in turn: `python -m benchmarks`, or `make bench`."""

import sys

from benchmarks import reading, synthesis

sys.stdout.write("== zskd's step against a plain loop ==\n")
synthesis.main()
sys.stdout.write("== verified reading of shards ==\n")
reading.main()
