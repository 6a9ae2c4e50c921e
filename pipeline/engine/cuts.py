"""Cut clips in parallel in processes of this machine. If a process dies, only its current clip fails."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from functools import partial

from pipeline.config import Config
from pipeline.engine.analyze import choose_engine
from pipeline.engine.interrupts import stopping_on_signals
from pipeline.engine.processes import Pool
from pipeline.engine.watchdog import Note
from pipeline.report.cutting import Cut, CutOptions, CutResult, Cutter, Run

_DIED = "the process that cut it died, perhaps for lack of memory"


@contextmanager
def cutting(address: str | None = None, workers: int | None = None) -> Iterator[Run]:
    """Give a block the function that cuts: in tasks of a Ray cluster if one is named, else in local processes.

    Args:
        address: A Ray cluster to join.
        workers: Processes of this machine. None: one per CPU.

    Raises:
        ActionlakeError: There is no such cluster, or the work on it can't go on.
    """
    config = Config()
    if choose_engine("auto", address, config) != "ray":
        yield partial(cut_here, workers=workers)
        return
    from pipeline.engine.ray.cuts import cut_on_ray
    from pipeline.engine.ray.resources import joined

    with stopping_on_signals(config.grace_s) as stop, joined(address, config, stop):
        yield cut_on_ray


class CutWorker:
    """Runs in a worker process: cuts one stretch of video after the other."""

    def __init__(self, note: Note, options: CutOptions) -> None:  # noqa: ARG002
        self._cutter = Cutter(options)

    def cut(self, cut: Cut) -> Iterator[CutResult]:
        """Cut a stretch and yield the result."""
        yield self._cutter.cut(cut)


def cut_here(
    options: CutOptions, cuts: Iterable[Cut], workers: int | None = None, make: type[CutWorker] = CutWorker
) -> Iterator[tuple[Cut, CutResult]]:
    """Yield each cut with its result as soon as it is finished. A cut is drawn only when a worker is free for it.

    Args:
        options: How the clips are cut.
        cuts: The stretches to cut.
        workers: Number of processes. None: one per CPU.
        make: The class that does the work in each process.

    Raises:
        ActionlakeError: The folder can't be written to, or no worker can be started.
    """
    waiting, asked = iter(cuts), dict[int, Cut]()
    numbers = itertools.count()
    with closing(Pool(make, (options,), workers or os.cpu_count() or 1)) as pool:
        while True:
            while pool.has_room and (cut := next(waiting, None)) is not None:
                number = next(numbers)
                asked[number] = cut
                pool.ask(number, "cut", cut)
            if not pool.n_busy:
                return
            for event in pool.events():
                if event.kind == "item":
                    yield asked.pop(event.request), event.value
                elif event.kind == "died":
                    yield asked.pop(event.request), CutResult(failure=_DIED)
