"""A worker that dies of one of its clips, as of a file on which a decoder crashes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator

from pipeline.engine import cuts as engine_cuts
from pipeline.engine.watchdog import Note
from pipeline.report.cutting import Cut, CutOptions, CutResult

DYING = "000001"


class DyingWorker(engine_cuts.CutWorker):
    def __init__(self, note: Note, options: CutOptions) -> None:
        super().__init__(note, options)

    def cut(self, cut: Cut) -> Iterator[CutResult]:
        if cut.name == DYING:
            os.kill(os.getpid(), signal.SIGSEGV)
        yield from super().cut(cut)


def dying_cuts(options: CutOptions, cuts: Iterable[Cut]) -> Iterator[tuple[Cut, CutResult]]:
    return engine_cuts.cut_here(options, cuts, 2, DyingWorker)
