"""`ray job submit -- python jobs/benchmark.py SOURCE...`. It has the options of `actionlake benchmark`."""

import sys

from pipeline.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "benchmark")
    main()
