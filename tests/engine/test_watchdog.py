"""What ends a worker's process."""

from __future__ import annotations

import signal
import subprocess
import sys

CRASH = """
import ctypes, time
from pipeline.engine.watchdog import crash_at_once

# Another's handler, as Ray has one, that takes its time.
handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda _: time.sleep(1e6))
ctypes.CDLL(None).signal(11, handler)
crash_at_once()
ctypes.string_at(0)
"""


def test_a_crash_ends_the_process_at_once_and_says_where() -> None:
    """Whatever handler was there before; left in place, this one would hold the process for days."""
    done = subprocess.run([sys.executable, "-c", CRASH], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == -signal.SIGSEGV
    assert "Fatal Python error: Segmentation fault" in done.stderr
    assert "string_at" in done.stderr
