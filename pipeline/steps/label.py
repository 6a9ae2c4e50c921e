"""From a video's sequences to its segments by one model: the classifier call of the design."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.activity.bundle import Bundle
from pipeline.activity.segments import StepRun, find_segments
from pipeline.config import Config
from pipeline.lake.sequences import StepSequence, VideoRows
from pipeline.motion.tracking import NO_TRACK

# Sequences of a video that are scored together share each step's pass. More than eight gain nothing on a CPU.
_TOGETHER = 8
# The longest is at most so many times as long as the shortest: what is added to the others is computed in vain.
_LONGER = 2
# Among so many tracks that began one after the other those of one length are looked for: what they read lies together.
_NEIGHBOURS = 64
# A longer one is scored alone, piece by piece, so that memory stays bounded.
_SHORT_STEPS = 1024


def segments_folder(bundle: Bundle) -> str:
    """Return where a model's segments lie in a lake."""
    return f"segments/model={bundle.name}"


def model_facts(bundle: Bundle) -> dict[str, str]:
    """Return what the footer of a part of `segments` says of the model."""
    return {"model": bundle.name, "model_sha256": bundle.sha256}


class Labeller:
    """Labels videos, on their way or out of the lake, with one model."""

    def __init__(self, bundle: Bundle, config: Config, threads: int = 1) -> None:
        """Take the model, the options of the job, and how many sequences are labelled side by side."""
        # It imports PyTorch, which the driver, that knows this class by name alone, shall not wait for.
        from pipeline.activity.classifier import SequenceClassifier

        self.bundle = bundle
        self._config = config
        self._classifier = SequenceClassifier(bundle.model)
        self._pool = ThreadPoolExecutor(threads)

    @property
    def busy_s(self) -> float:
        """Seconds that the model itself has computed."""
        return self._classifier.busy_s

    def segments(
        self,
        video_id: str,
        uri: str,
        rows: VideoRows,
        track_ids: NDArray[np.int64],
        class_names: dict[int, str],
        video_end_s: float,
    ) -> list[dict[str, Any]]:
        """Return a video's rows of `segments`, by start; none reaches past the end of the video.

        Args:
            video_id: The video.
            uri: Where it is.
            rows: Its features.
            track_ids: `int64 [N]`, for every box.
            class_names: Names of the boxes' classes.
            video_end_s: When it ends; without limit where that was not seen.
        """
        bundle, config = self.bundle, self._config
        sequences = list(self._sequences(rows, track_ids, class_names))
        runs = self._pool.map(lambda some: self._label(rows, some), _side_by_side(sequences))
        found = [item for of_some in runs for item in of_some]
        found.sort(key=lambda item: (item[1].first_step, item[0].track_id or 0))
        segments = []
        for number, (sequence, run) in enumerate(found):
            label = bundle.labels[run.label_id]
            if label == bundle.background or (config.labels and label not in config.labels):
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
                    "start_s": float(run.first_step / config.grid_rate),
                    "end_s": min(float(run.end_step / config.grid_rate), video_end_s),
                    **(dict(zip(("x1", "y1", "x2", "y2"), box.tolist(), strict=True)) if box is not None else {}),
                    "run_id": config.run_id,
                }
            )
        return segments

    def _sequences(
        self, rows: VideoRows, track_ids: NDArray[np.int64], class_names: dict[int, str]
    ) -> Iterator[StepSequence]:
        """Yield what the model labels: stretches of frames, or long enough tracks of what it was trained on."""
        if self.bundle.scope == "frame":
            yield from rows.frame_sequences()
            return
        wanted = [number for number, name in class_names.items() if name in self.bundle.classes]
        of_class = np.where(np.isin(rows.boxes.class_id, wanted), track_ids, NO_TRACK)
        for sequence in rows.track_sequences(of_class):
            if sequence.n_steps >= self._config.min_track_s * self._config.chosen_fps:
                yield sequence

    def _label(self, rows: VideoRows, sequences: Sequence[StepSequence]) -> list[tuple[StepSequence, StepRun]]:
        """Return the runs of steps of one activity in some sequences, each with its sequence."""
        inputs = [rows.inputs(sequence, self.bundle.spec.inputs) for sequence in sequences]
        scores: Iterable[Iterable[NDArray[np.float32]]]
        if len(sequences) > 1:
            scores = ([of_one] for of_one in self._classifier.scores_side_by_side(inputs))
        else:
            scores = map(self._classifier.scores, inputs)
        return [
            (sequence, run)
            for sequence, of_one in zip(sequences, scores, strict=True)
            for run in find_segments(of_one, sequence.first_step, self._config.chosen_fps, self.bundle.segments)
        ]


def _side_by_side(sequences: Sequence[StepSequence]) -> Iterator[Sequence[StepSequence]]:
    """Yield which sequences of a video are scored together: neighbours of about the same length; long ones alone."""
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
