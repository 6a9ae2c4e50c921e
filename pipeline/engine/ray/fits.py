"""Train networks in parallel on a Ray cluster, one task each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ray

from pipeline.training.distributed import VideoSource
from pipeline.training.fits import Epoch, Fit, Fitted, run_fit

# How often a task whose worker died is retried. It goes on from the last epoch.
_MAX_RETRIES = 3
# How many small networks share a GPU.
_PER_GPU = 4


@ray.remote(num_cpus=0)
class _Epochs:
    """Keeps the epochs that tasks report until they are collected."""

    def __init__(self) -> None:
        self._told: list[Epoch] = []

    def tell(self, epoch: Epoch) -> None:
        """Note an epoch of a fit."""
        self._told.append(epoch)

    def take(self) -> list[Epoch]:
        """Return the epochs since the last call."""
        told, self._told = self._told, []
        return told


class RayFits:
    """Trains networks on the cluster that is joined."""

    def __init__(self, source: VideoSource, use_gpu: bool, on_epoch: Callable[[str, int, float], None]) -> None:
        """Take the videos, whether each network gets a part of a GPU, and the callback for epochs."""
        self._source = ray.put(source)
        self._on_epoch = on_epoch
        self._epochs = _Epochs.remote()  # type: ignore[attr-defined]
        self._task = ray.remote(num_cpus=1, num_gpus=1 / _PER_GPU if use_gpu else 0, max_retries=_MAX_RETRIES)(_fit)

    def begin(self, fit: Fit) -> Any:
        """Begin a fit, and return a reference to its result."""
        return self._task.remote(self._source, fit, self._epochs)

    def wait_for(self, begun: Sequence[Any]) -> list[Fitted]:
        """Return the results of some fits, in order, once all are finished."""
        waiting = list(begun)
        while waiting:
            _, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=1.0)
            for epoch in ray.get(self._epochs.take.remote()):
                self._on_epoch(*epoch)
        found: list[Fitted] = ray.get(list(begun))
        return found


def _fit(source: VideoSource, fit: Fit, epochs: Any) -> Any:
    for told in run_fit(source, fit):
        if len(told) == 2:
            return told
        epochs.tell.remote(told)
    raise AssertionError("a fit ends with its result")
