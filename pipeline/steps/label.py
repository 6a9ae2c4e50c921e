"""Label a video: from its sequences to its segments, with one model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.activity.bundle import Bundle
from pipeline.activity.classifier import SequenceClassifier
from pipeline.activity.segments import Scored, StepRun, find_segments
from pipeline.config import Config
from pipeline.lake.sequences import StepSequence, VideoRows
from pipeline.lake.store import model_folder
from pipeline.motion.tracking import NO_TRACK

# At most this many sequences are scored together and share each step's pass. More than eight gain nothing on a CPU.
_TOGETHER = 8
# The longest of them is at most this many times as long as the shortest, because padding is computed in vain.
_LONGER = 2
# Sequences of about one length are grouped within this many successive ones, because their rows lie close together.
_NEIGHBOURS = 64
# A longer sequence is scored alone, piece by piece, so that memory stays bounded.
_SHORT_STEPS = 1024


def segments_folder(bundle: Bundle) -> str:
    """Return the folder of a lake in which a model's segments lie."""
    return model_folder("segments", bundle.name)


def model_facts(bundle: Bundle) -> dict[str, str]:
    """Return what the footer of a part of `segments` tells about the model."""
    return {"model": bundle.name, "model_sha256": bundle.sha256, "model_options": bundle.options_digest}


def on_one_thread(bundles: Iterable[Bundle]) -> None:
    """Let a worker's models compute on one thread: on several, sums would differ in their last bit.

    OpenVINO, which runs every model but a transformer, uses one thread anyway.
    """
    if any(bundle.spec.head == "transformer" for bundle in bundles):
        import torch

        torch.set_num_threads(1)


UNLIKE = 0.95
"""A step with a higher novelty is unlike the model's training data. One in twenty steps of that data is, too."""


class VideoLabels(NamedTuple):
    """The result of a model for a video."""

    segments: list[dict[str, Any]]
    """Rows of `segments`, by start."""
    judged_s: float
    """Seconds of people, or of frames, whose novelty the model knows."""
    unlike_s: float
    """Of these, the seconds with a novelty above `UNLIKE`."""


class _Labelled(NamedTuple):
    """The result of a model for a sequence."""

    sequence: StepSequence
    runs: list[StepRun]
    novelty: NDArray[np.float32] | None
    """`float32 [n_steps]`; None if the model does not know it."""


class Labeller:
    """Labels videos with one model, before or after their commit."""

    def __init__(self, bundle: Bundle, config: Config, threads: int = 1) -> None:
        """Take the model, the options of the job, and the number of threads that label."""
        self.bundle = bundle
        self._config = config
        self._classifier = bundle.classifier()
        self._pool = ThreadPoolExecutor(threads)

    @property
    def busy_s(self) -> float:
        """Seconds that the model itself has computed."""
        return self._classifier.busy_s

    def label(
        self,
        video_id: str,
        uri: str,
        rows: VideoRows,
        track_ids: NDArray[np.int64],
        class_names: dict[int, str],
        video_end_s: float,
    ) -> VideoLabels:
        """Label a video; no segment reaches past its end.

        Args:
            video_id: The video.
            uri: Where it is.
            rows: Its features.
            track_ids: `int64 [N]`, for every box.
            class_names: Names of the boxes' classes.
            video_end_s: When it ends; infinity if its end was not seen.
        """
        bundle, config = self.bundle, self._config
        sequences = list(self._sequences(rows, track_ids, class_names))
        labelled = self._pool.map(lambda some: list(self._label(rows, some)), _side_by_side(sequences))
        said = [of_one for of_some in labelled for of_one in of_some]
        found = [(of_one.sequence, run) for of_one in said for run in of_one.runs]
        found.sort(key=lambda item: (item[1].first_step, item[0].track_id or 0))
        segments = []
        for number, (sequence, run) in enumerate(found):
            label = bundle.labels[run.label_id]
            if label == bundle.background or (config.labels and label not in config.labels):
                continue
            if not bundle.segments.tells(run):
                continue
            box = sequence.mean_box(run.first_step, run.end_step)
            segments.append(
                {
                    "video_id": video_id,
                    "uri": uri,
                    "segment_id": f"{video_id}-{bundle.scope[0]}{number:06d}",
                    "scope": bundle.scope,
                    "track_id": sequence.track_id,
                    "label": label,
                    "label_id": run.label_id,
                    "score": run.score,
                    "novelty": run.novelty if bundle.spec.energies else None,
                    "start_s": float(run.first_step / config.grid_rate),
                    "end_s": min(float(run.end_step / config.grid_rate), video_end_s),
                    **(dict(zip(("x1", "y1", "x2", "y2"), box.tolist(), strict=True)) if box is not None else {}),
                    "run_id": config.run_id,
                }
            )
        novelties = [of_one.novelty for of_one in said if of_one.novelty is not None]
        return VideoLabels(
            segments,
            sum(len(novelty) for novelty in novelties) / config.chosen_fps,
            sum(int((novelty > UNLIKE).sum()) for novelty in novelties) / config.chosen_fps,
        )

    def _sequences(
        self, rows: VideoRows, track_ids: NDArray[np.int64], class_names: dict[int, str]
    ) -> Iterator[StepSequence]:
        """Yield the sequences to label: stretches of frames, or long enough tracks of the model's classes."""
        if self.bundle.scope == "frame":
            yield from rows.frame_sequences()
            return
        wanted = [number for number, name in class_names.items() if name in self.bundle.classes]
        of_class = np.where(np.isin(rows.boxes.class_id, wanted), track_ids, NO_TRACK)
        for sequence in rows.track_sequences(of_class):
            if sequence.n_steps >= self._config.min_track_s * self._config.chosen_fps:
                yield sequence

    def _label(self, rows: VideoRows, sequences: Sequence[StepSequence]) -> Iterator[_Labelled]:
        """Yield the model's result for each sequence."""
        inputs = [rows.inputs(sequence, self.bundle.spec.inputs) for sequence in sequences]
        logits: Iterable[Iterable[NDArray[np.float32]]]
        if len(sequences) > 1:
            logits = ([of_one] for of_one in self._classifier.logits_side_by_side(inputs))
        else:
            logits = map(self._classifier.logits, inputs)
        for sequence, of_one in zip(sequences, logits, strict=True):
            novelties: list[NDArray[np.float32]] = []
            blocks = _scored(self._classifier, of_one, novelties)
            runs = list(find_segments(blocks, sequence.first_step, self._config.chosen_fps, self.bundle.segments))
            yield _Labelled(sequence, runs, np.concatenate(novelties) if novelties else None)


def _scored(
    classifier: SequenceClassifier, logits: Iterable[NDArray[np.float32]], novelties: list[NDArray[np.float32]]
) -> Iterator[Scored]:
    """Yield the model's result for each block, and append its novelty to `novelties`, if the model knows it."""
    for scored in map(classifier.scored, logits):
        if scored.novelty is not None:
            novelties.append(scored.novelty)
        yield scored


def _side_by_side(sequences: Sequence[StepSequence]) -> Iterator[Sequence[StepSequence]]:
    """Yield the groups of sequences to score together: neighbours of about the same length; long ones alone."""
    short = []
    for sequence in sequences:
        if sequence.n_steps > _SHORT_STEPS:
            yield [sequence]
        else:
            short.append(sequence)
    for first in range(0, len(short), _NEIGHBOURS):
        by_length = sorted(short[first : first + _NEIGHBOURS], key=lambda sequence: sequence.n_steps)
        while by_length:
            n = sum(each.n_steps <= _LONGER * by_length[0].n_steps for each in by_length[:_TOGETHER])
            yield by_length[:n]
            by_length = by_length[n:]
