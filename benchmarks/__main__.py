"""Every benchmark in turn: `python -m benchmarks`, or `make bench`."""

import sys

from benchmarks import adversarial, inversion, reading, synthesis

sys.stdout.write("== zskd's step against a plain loop ==\n")
synthesis.main()
sys.stdout.write("== deepinversion's step against a plain loop ==\n")
inversion.main()
sys.stdout.write("== iterations of the generator methods against plain ones ==\n")
adversarial.main()
sys.stdout.write("== verified reading of shards ==\n")
reading.main()
