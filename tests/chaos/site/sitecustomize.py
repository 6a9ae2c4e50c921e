"""Python runs this as it starts, with this folder on its path: it installs the faults in what forks local workers."""

import sys

if "pipeline.engine.fork_server" in sys.orig_argv:
    from tests.chaos import faults

    faults.install()
