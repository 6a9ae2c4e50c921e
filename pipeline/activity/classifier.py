"""Run an activity model over a whole sequence, in order and in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from threading import Lock
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.activity.model import ActivityModel, Member, normalised
from pipeline.activity.spool import Spool
from pipeline.stopwatch import Stopwatch

PIECE_STEPS = 512
"""Steps of one pass. Input is cut anew into pieces of this length, so the result does not depend on how it came."""


class SequenceClassifier:
    """Gives logits to every step of a sequence exactly as one pass over all of it would, in bounded memory.

    How a sequence goes through in pieces is the matter of the head. Several threads may score sequences.
    """

    def __init__(self, model: ActivityModel) -> None:
        """Take a model in evaluation mode."""
        self._model = model.eval()
        self._members = [cast(Member, member) for member in model.members]
        self.busy_s = 0.0
        """Seconds that it has computed, in all threads."""
        self._lock = Lock()

    def scores(self, inputs: Iterable[NDArray[np.float16]]) -> Iterator[NDArray[np.float32]]:
        """Yield probabilities `float32 [t, n_labels]` for the inputs `[t, input_dim]` of one sequence; see `logits`."""
        for logits in self.logits(inputs):
            yield self._model.scores(logits).numpy()

    def logits(self, inputs: Iterable[NDArray[np.float16]]) -> Iterator[torch.Tensor]:
        """Yield logits `float32 [t, n_labels]` for the inputs `[t, input_dim]` of one sequence.

        The blocks that come out are cut differently from those that go in; together they are as long.
        """
        with self._computing() as (busy, stack):
            encoded = self._encoded(inputs, busy, stack)
            logits = [member.head.streamed(spool) for member, spool in zip(self._members, encoded, strict=True)]
            for of_members in busy.over(zip(*logits, strict=True)):
                yield self._model.together(of_members)

    def logits_side_by_side(self, sequences: Sequence[Iterable[NDArray[np.float16]]]) -> list[torch.Tensor]:
        """Return logits `float32 [t, n_labels]` for each of some sequences that fit into memory; none is empty.

        A logit may differ in its last bit with the sequences beside it.
        """
        with self._computing() as (busy, stack):
            encoded = [self._encoded(inputs, busy, stack) for inputs in sequences]
            with busy:
                of_members = zip(*encoded, strict=True)
                logits = [
                    member.head.side_by_side(spools) for member, spools in zip(self._members, of_members, strict=True)
                ]
                return [self._model.together(of_one) for of_one in zip(*logits, strict=True)]

    @contextmanager
    def _computing(self) -> Iterator[tuple[Stopwatch, ExitStack]]:
        busy = Stopwatch()
        with torch.inference_mode(), ExitStack() as stack:
            yield busy, stack
        with self._lock:
            self.busy_s += busy.seconds

    def _encoded(self, inputs: Iterable[NDArray[np.float16]], busy: Stopwatch, stack: ExitStack) -> list[Spool]:
        """Return what the head of each member reads of a sequence."""
        spec = self._model.spec
        encoded = [stack.enter_context(Spool(member.encoded_dim)) for member in self._members]
        for piece in _repiece(inputs):
            with busy:
                parts = normalised(torch.from_numpy(piece.astype(np.float32)), spec, spec.inputs)
                for member, spool in zip(self._members, encoded, strict=True):
                    spool.append(member.encode(parts))
        return encoded


def _repiece(blocks: Iterable[NDArray[np.float16]]) -> Iterator[NDArray[np.float16]]:
    """Cut blocks of any lengths into pieces of `PIECE_STEPS`; only the last one is shorter."""
    waiting: list[NDArray[np.float16]] = []
    n_waiting = 0
    for block in blocks:
        waiting.append(block)
        n_waiting += len(block)
        if n_waiting >= PIECE_STEPS:
            joined = np.concatenate(waiting)
            whole = n_waiting // PIECE_STEPS * PIECE_STEPS
            yield from np.split(joined[:whole], whole // PIECE_STEPS)
            waiting, n_waiting = [joined[whole:]], n_waiting - whole
    if n_waiting:
        yield np.concatenate(waiting)
