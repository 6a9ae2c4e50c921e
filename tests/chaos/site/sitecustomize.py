"""Python runs this as it starts, where this folder is on its path: in local workers it installs the faults."""

import sys

if "pipeline.engine.processes" in sys.orig_argv:
    from tests.chaos import faults

    faults.install()
