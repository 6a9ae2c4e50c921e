"""`ray job submit -- python jobs/train.py ANNOTATIONS --videos DIR --out BUNDLE`: options as of `actionlake train`."""

import sys

from pipeline.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "train")
    main()
