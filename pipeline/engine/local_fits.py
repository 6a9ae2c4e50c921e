"""Train networks in parallel in processes of this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from pipeline.engine.processes import Pool, Requests
from pipeline.engine.watchdog import Note
from pipeline.errors import ActionlakeError
from pipeline.training.distributed import VideoSource
from pipeline.training.fits import Epoch, Fit, Fitted, run_fit

# At this many deaths of its process a fit fails. Before, another process goes on from its last epoch.
_MOST_DEATHS = 3


class FitWorker:
    """Runs in a worker process: trains one network after the other."""

    def __init__(self, note: Note, source: VideoSource) -> None:  # noqa: ARG002
        self._source = source

    def fit(self, fit: Fit) -> Iterator[Epoch | Fitted]:
        """Train a network: yield its epochs, and finally the result."""
        return run_fit(self._source, fit)


class LocalFits:
    """Trains networks in worker processes."""

    def __init__(self, source: VideoSource, n_workers: int, on_epoch: Callable[[str, int, float], None]) -> None:
        """Take the videos, the number of networks trained in parallel, and the callback for epochs."""
        self._workers = Pool(FitWorker, (source,), n_workers)
        self._on_epoch = on_epoch
        self._fits: list[Fit] = []
        self._requests = Requests(self._workers, _MOST_DEATHS, self._given_up)
        self._found: dict[int, Fitted] = {}

    def close(self) -> None:
        """End all workers at once."""
        self._workers.close()

    def begin(self, fit: Fit) -> int:
        """Begin a fit, and return its number."""
        number = len(self._fits)
        self._fits.append(fit)
        self._requests.add(number, "fit", fit)
        return number

    def wait_for(self, begun: Sequence[int]) -> list[Fitted]:
        """Return the results of some fits, in order, once all are finished.

        Raises:
            ActionlakeError: The process of a fit died too often.
        """
        while not self._found.keys() >= set(begun):
            for number, told in self._requests.items():
                if len(told) == 2:
                    self._found[number] = told
                else:
                    self._on_epoch(*told)
        return [self._found[number] for number in begun]

    def _given_up(self, number: int) -> ActionlakeError:
        return ActionlakeError(
            f"the process that trains {self._fits[number].name} died {_MOST_DEATHS} times, perhaps for lack of "
            "memory; the same command goes on from the last epoch"
        )
