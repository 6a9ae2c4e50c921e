"""`ray job submit -- python jobs/analyze.py SOURCE... --lake DIR`. It has the options of `actionlake analyze`."""

import sys

from pipeline.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "analyze")
    main()
