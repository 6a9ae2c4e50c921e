"""The command `actionlake`: it parses options, calls the library, shows the result and sets the exit code."""

from __future__ import annotations

import sys

from pipeline.cli import ask, cluster, foretell, keep, look, pack, review, show, teach
from pipeline.cli.common import EXIT_JOB_ERROR, EXIT_USAGE, app, console
from pipeline.cli.terminal import plain
from pipeline.engine.interrupts import stopping_on_signals
from pipeline.errors import ActionlakeError, Interrupted, UsageError
from pipeline.extras import missing

__all__ = ["app", "ask", "cluster", "foretell", "keep", "look", "main", "pack", "review", "show", "teach"]


def main() -> None:
    """Run the command. A user's mistake and Ctrl-C give one line, not a traceback."""
    try:
        with stopping_on_signals(0.0, "the same command starts again"):
            app()
    except UsageError as error:
        _leave(error, EXIT_USAGE)
    except ModuleNotFoundError as error:
        if (mistake := missing(error)) is None:
            raise
        _leave(mistake, EXIT_USAGE)
    except (ActionlakeError, OSError) as error:
        _leave(error, EXIT_JOB_ERROR)
    except Interrupted as error:
        console.print(f"interrupted; {plain(error.left)}", highlight=False, soft_wrap=True)
        sys.exit(128 + error.signum)


def _leave(error: Exception, code: int) -> None:
    console.print(f"[bold red]error:[/] {plain(str(error))}", highlight=False, soft_wrap=True)
    sys.exit(code)
