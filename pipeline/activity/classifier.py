"""Run an activity model over a whole sequence, in order and in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from pipeline.activity.graphs import Compiled, Weights, encoder_graph, part_of
from pipeline.activity.scores import scored
from pipeline.activity.segments import Scored
from pipeline.activity.spec import ModelSpec, seen
from pipeline.activity.spool import Spool
from pipeline.activity.streams import stream_of
from pipeline.stopwatch import Stopwatch

PIECE_STEPS = 512
"""Steps of one pass. Input is cut into pieces of this length, so the result does not depend on its blocks."""


class _Member:
    """One network of a model, for inference."""

    def __init__(self, spec: ModelSpec, number: int, weights: Weights) -> None:
        own = replace(spec, inputs=seen(spec.views[number], spec.inputs))
        self.encoded_dim = own.encoded_dim
        self.encode = Compiled(encoder_graph(spec, own.inputs, part_of(weights, "projection")))
        self.head = stream_of(own, part_of(weights, "head"))


class SequenceClassifier:
    """Computes the logits of every step of a sequence exactly as one pass over all of it would, in bounded memory.

    Only a transformer needs PyTorch. Several threads may score sequences.
    """

    def __init__(self, spec: ModelSpec, weights: Weights) -> None:
        """Take a model's description and its parameters, as a bundle holds them."""
        self._spec = spec
        self._members = [
            _Member(spec, number, part_of(weights, f"members.{number}")) for number in range(len(spec.views))
        ]
        self.busy_s = 0.0
        """Seconds of computing, summed over all threads."""
        self._lock = Lock()

    def scores(self, inputs: Iterable[NDArray[np.float16]]) -> Iterator[NDArray[np.float32]]:
        """Yield probabilities `float32 [t, n_labels]` for the inputs `[t, input_dim]` of one sequence; see `logits`."""
        for logits in self.logits(inputs):
            yield self.scored(logits).scores

    def logits(self, inputs: Iterable[NDArray[np.float16]]) -> Iterator[NDArray[np.float32]]:
        """Yield logits `float32 [t, n_labels]` for the inputs `[t, input_dim]` of one sequence.

        The output blocks are cut differently from the input blocks, but have the same total length.
        """
        with self._computing() as (busy, stack):
            encoded = self._encoded(inputs, busy, stack)
            logits = [member.head.streamed(spool) for member, spool in zip(self._members, encoded, strict=True)]
            for of_members in busy.over(zip(*logits, strict=True)):
                yield _together(of_members)

    def logits_side_by_side(self, sequences: Sequence[Iterable[NDArray[np.float16]]]) -> list[NDArray[np.float32]]:
        """Return logits `float32 [t, n_labels]` for each of some sequences that fit into memory; none is empty.

        The last bit of a logit may depend on the other sequences.
        """
        with self._computing() as (busy, stack):
            encoded = [self._encoded(inputs, busy, stack) for inputs in sequences]
            with busy:
                of_members = zip(*encoded, strict=True)
                logits = [
                    member.head.side_by_side(spools) for member, spools in zip(self._members, of_members, strict=True)
                ]
                return [_together(of_one) for of_one in zip(*logits, strict=True)]

    def scored(self, logits: NDArray[np.float32]) -> Scored:
        """Return the probabilities for logits, and the novelty, if the model has `energies`."""
        return scored(logits, self._spec.temperature, self._spec.energies)

    @contextmanager
    def _computing(self) -> Iterator[tuple[Stopwatch, ExitStack]]:
        busy = Stopwatch()
        with ExitStack() as stack:
            yield busy, stack
        with self._lock:
            self.busy_s += busy.seconds

    def _encoded(self, inputs: Iterable[NDArray[np.float16]], busy: Stopwatch, stack: ExitStack) -> list[Spool]:
        """Return the input of each member's head for a sequence."""
        encoded = [stack.enter_context(Spool(member.encoded_dim)) for member in self._members]
        for piece in _repiece(inputs):
            with busy:
                for member, spool in zip(self._members, encoded, strict=True):
                    spool.append(member.encode(piece.astype(np.float32))[0])
        return encoded


def _together(logits: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return the mean of the members' logits, `float32 [N, n_labels]`."""
    return np.asarray(np.mean(np.stack(logits), axis=0), np.float32)


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
