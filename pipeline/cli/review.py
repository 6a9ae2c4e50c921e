"""Commands for reviewers of segments: `review`, `agreement`."""

from __future__ import annotations

import getpass
import math
import signal
import tempfile
import threading
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.common import TEACH, LakeUri, app, out
from pipeline.cli.show import Model, VideosRoot, Where
from pipeline.cli.tables import agreement_tables
from pipeline.cli.terminal import plain


@app.command(rich_help_panel=TEACH)
def review(
    lake: LakeUri,
    answers: Annotated[
        Path | None,
        typer.Option(help="CSV file of the answers. New ones are added.", show_default="answers-REVIEWER.csv"),
    ] = None,
    reviewer: Annotated[str | None, typer.Option(help="Name of the reviewer.", show_default="your login name")] = None,
    where: Where = None,
    model: Model = None,
    videos_root: VideosRoot = None,
    port: Annotated[int, typer.Option(help="Port on the loopback interface. 0: any free port.")] = 0,
) -> None:
    """Serve a page on this machine, on which a reviewer says which segments are right. Ctrl-C ends it."""
    from pipeline.lake.query import open_lake
    from pipeline.report.review import Review
    from pipeline.report.server import ReviewServer
    from pipeline.training.answers import AnswerBook

    reader, who = open_lake(lake), reviewer or _login()
    uris = reader.table("videos", ["uri"])["uri"].to_pylist()
    path = answers or Path(f"answers-{_file_name(who)}.csv")
    with AnswerBook(path, uris) as book, tempfile.TemporaryDirectory(prefix="actionlake-review-") as folder:
        session = Review(reader, lake, book, who, Path(folder), where, model, videos_root)
        with ReviewServer(session, reader.store.name, port) as server:
            ended = threading.Event()
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda *_: ended.set())
            threading.Thread(target=server.serve_forever, daemon=True).start()
            # The address stands alone on its line, so that a person can copy it and a program can open it.
            print(server.url, flush=True)
            out.print(f"answers go to {plain(str(path))}; Ctrl-C ends the review", highlight=False, soft_wrap=True)
            ended.wait()
            server.shutdown()
        out.print(f"{plain(str(path))}: {len(book.answers)} answers", highlight=False, soft_wrap=True)


@app.command(rich_help_panel=TEACH)
def agreement(
    one: Annotated[Path, typer.Argument(help="Answers of one reviewer.")],
    other: Annotated[Path, typer.Argument(help="Answers of another reviewer.")],
) -> None:
    """Show how far two reviewers agree: Cohen's kappa for each label, and a table of their label pairs."""
    from pipeline.errors import UsageError
    from pipeline.training.answers import agreement as measured
    from pipeline.training.answers import read_answers

    found = measured(read_answers(one), read_answers(other))
    if not found.n_both:
        raise UsageError(f"{one} and {other}: no segment was answered in both; review the same lake")
    agreement_tables(out, found, one.name, other.name)
    if all(math.isnan(kappa) for _, _, kappa in found.by_label.values()):
        out.print("both gave the same single label to all segments, so kappa is undefined", highlight=False)


def _login() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "reviewer"


def _file_name(name: str) -> str:
    return "".join(char if char.isalnum() or char in "-_." else "-" for char in name)[:60]
