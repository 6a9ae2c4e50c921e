"""Networks that are trained side by side in processes of this machine."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence

from pipeline.engine.processes import Pool
from pipeline.engine.watchdog import Note
from pipeline.errors import ActionlakeError
from pipeline.training.distributed import VideoSource
from pipeline.training.fits import Epoch, Fit, Fitted, run_fit

# A fit whose process dies goes on from its last epoch in another; so often.
_MOST_DEATHS = 3


class FitWorker:
    """What a worker does: it trains one network after the other."""

    def __init__(self, note: Note, source: VideoSource) -> None:  # noqa: ARG002
        self._source = source

    def fit(self, fit: Fit) -> Iterator[Epoch | Fitted]:
        """Train a network: yield its epochs, and last what came out."""
        return run_fit(self._source, fit)


class LocalFits:
    """Trains networks in worker processes."""

    def __init__(self, source: VideoSource, n_workers: int, on_epoch: Callable[[str, int, float], None]) -> None:
        """Take the videos, how many networks are trained side by side, and who is told of epochs."""
        self._workers = Pool(FitWorker, (source,), n_workers)
        self._on_epoch = on_epoch
        self._fits: list[Fit] = []
        self._waiting: deque[int] = deque()
        self._deaths: Counter[int] = Counter()
        self._found: dict[int, Fitted] = {}

    def close(self) -> None:
        """End all workers at once."""
        self._workers.close()

    def begin(self, fit: Fit) -> int:
        """Begin a fit, and return its number."""
        self._fits.append(fit)
        self._waiting.append(len(self._fits) - 1)
        self._ask()
        return len(self._fits) - 1

    def wait_for(self, begun: Sequence[int]) -> list[Fitted]:
        """Return what came out of some fits, in order, as soon as all are finished.

        Raises:
            ActionlakeError: The process of one died again and again.
        """
        while not self._found.keys() >= set(begun):
            for event in self._workers.events():
                if event.kind == "died":
                    self._again(event.request)
                elif event.kind == "item" and len(event.value) == 2:
                    self._found[event.request] = event.value
                elif event.kind == "item":
                    self._on_epoch(*event.value)
            self._ask()
        return [self._found[number] for number in begun]

    def _ask(self) -> None:
        while self._waiting and self._workers.has_room:
            number = self._waiting.popleft()
            self._workers.ask(number, "fit", self._fits[number])

    def _again(self, number: int) -> None:
        self._deaths[number] += 1
        if self._deaths[number] >= _MOST_DEATHS:
            raise ActionlakeError(
                f"training {self._fits[number].name} ended its process {_MOST_DEATHS} times, perhaps for want of "
                "memory; the same command goes on from the last epoch"
            )
        self._waiting.appendleft(number)
