"""From a lake's features and annotations to labelled sequences."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.activity.bundle import BACKGROUND
from pipeline.lake.query import LakeReader
from pipeline.lake.sequences import StepSequence, VideoRows
from pipeline.training.annotations import Annotation
from pipeline.training.fit import IGNORE, LabelledSequence

# Annotations tell what is done in a video, not by whom: by those who are not much smaller than anybody beside them.
_LEAST_PROMINENT = 0.4


@dataclass(frozen=True)
class Item:
    """One annotated span: what accuracy counts."""

    annotation: Annotation
    label_id: int
    first_step: int
    """On the video's sampling grid."""
    end_step: int


@dataclass(frozen=True)
class LabelledVideo:
    """One video's sequences with its annotated spans."""

    video: str
    sequences: tuple[LabelledSequence, ...]
    """Stretches of frames, or tracks of people; none if nobody was found."""
    items: tuple[Item, ...]


def load_videos(
    lake: LakeReader,
    uris: dict[str, str],
    annotations: Sequence[Annotation],
    labels: Sequence[str],
    scope: str,
    inputs: Sequence[str],
) -> list[LabelledVideo]:
    """Read the annotated videos' features and label every step of their sequences.

    Where spans overlap, the one that starts later wins: it is the more special one (reading, while sitting); and any
    other wins over the background.

    Args:
        lake: Where the features are.
        uris: For each video, as annotated, the URI that the lake knows it by.
        annotations: What is labelled.
        labels: The activities, in the order of their ids.
        scope: `frame` for stretches of whole frames, `person` for tracks.
        inputs: What stands side by side in an input vector.

    Returns:
        Videos with at least one labelled step, in order of name. A video without features is left out.
    """
    rate = float(lake.feature_options["sample_fps"])
    by_video: dict[str, list[Annotation]] = defaultdict(list)
    for annotation in annotations:
        by_video[uris[annotation.video]].append(annotation)
    known = lake.table("videos", ["video_id", "uri"]).to_pylist()
    uri_of = {row["video_id"]: row["uri"] for row in known if row["uri"] in by_video}
    videos = []
    for video_id, rows, track_ids in lake.videos(uri_of):
        of_video = by_video[uri_of[video_id]]
        n_steps = int(rows.frames.step[-1] + rows.frames.n_steps[-1]) if len(rows.frames.step) else 0
        label_ids = np.full(n_steps, IGNORE, np.int64)
        items = []
        for annotation in sorted(of_video, key=lambda a: (a.label != BACKGROUND, a.start_s or 0.0)):
            first = min(n_steps, _step_at(annotation.start_s or 0.0, rate))
            end = n_steps if annotation.end_s is None else min(n_steps, _step_at(annotation.end_s, rate))
            if end > first:
                label_id = labels.index(annotation.label)
                label_ids[first:end] = label_id
                items.append(Item(annotation, label_id, first, end))
        if items:
            sequences = rows.frame_sequences() if scope == "frame" else _main_tracks(rows, track_ids)
            labelled = tuple(_labelled(rows, sequence, inputs, label_ids) for sequence in sequences)
            videos.append(LabelledVideo(of_video[0].video, labelled, tuple(items)))
    return sorted(videos, key=lambda video: video.video)


def _step_at(time_s: float, rate: float) -> int:
    return int(np.ceil(time_s * rate - 1e-6))


def _main_tracks(rows: VideoRows, track_ids: NDArray[np.int64]) -> list[StepSequence]:
    tracks = list(rows.track_sequences(track_ids))
    spans = [(track.first_step, track.first_step + track.n_steps) for track in tracks]
    areas = [float(np.average(_areas(track), weights=track.counts)) for track in tracks]
    return [
        track
        for track, (start, end), area in zip(tracks, spans, areas, strict=True)
        if all(
            area >= _LEAST_PROMINENT * other_area
            for (other_start, other_end), other_area in zip(spans, areas, strict=True)
            if other_start < end and start < other_end
        )
    ]


def _areas(sequence: StepSequence) -> NDArray[np.float32]:
    if sequence.xyxy is None:
        return np.ones(len(sequence.counts), np.float32)
    sides = sequence.xyxy[:, 2:] - sequence.xyxy[:, :2]
    areas: NDArray[np.float32] = sides[:, 0] * sides[:, 1]
    return areas


def _labelled(
    rows: VideoRows, sequence: StepSequence, inputs: Sequence[str], label_ids: NDArray[np.int64]
) -> LabelledSequence:
    first, end = sequence.first_step, sequence.first_step + sequence.n_steps
    return LabelledSequence(
        np.concatenate(list(rows.inputs(sequence, inputs))),
        label_ids[first:end],
        first,
        np.repeat(_areas(sequence), sequence.counts),
    )
