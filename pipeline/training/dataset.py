"""From a lake's features and annotations to labelled sequences."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.activity.bundle import BACKGROUND
from pipeline.lake.examples import track_at
from pipeline.lake.query import LakeReader
from pipeline.lake.sequences import StepSequence
from pipeline.training.annotations import Annotation
from pipeline.training.sequences import IGNORE, LabelledSequence

# Most annotations do not say who acts. It is then everybody with at least this share of any other's prominence.
_LEAST_PROMINENT = 0.4


@dataclass(frozen=True)
class Item:
    """One annotated span. Accuracy counts spans."""

    annotation: Annotation
    label_id: int
    first_step: int
    """On the video's sampling grid."""
    end_step: int
    alternative_ids: tuple[int, ...] = ()
    """Labels that are right, too."""

    @property
    def right_ids(self) -> tuple[int, ...]:
        """All labels that are right."""
        return (self.label_id, *self.alternative_ids)


class _Vectors:
    """Input vectors of all sequences in one unlinked file, mapped into memory, which keeps as much as there is room."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as what is mapped
        self._n_rows = self._width = 0

    def append(self, blocks: Iterable[NDArray[np.float16]]) -> slice:
        """Write the blocks of one sequence, `float16 [t, D]`, and return its rows."""
        first = self._n_rows
        for block in blocks:
            self._file.write(np.ascontiguousarray(block).tobytes())
            self._n_rows, self._width = self._n_rows + len(block), block.shape[1]
        return slice(first, self._n_rows)

    def mapped(self) -> NDArray[np.float16]:
        """Return all rows, read-only."""
        self._file.flush()
        if not self._n_rows:
            return np.empty((0, self._width), np.float16)
        return np.memmap(self._file, np.float16, "r", shape=(self._n_rows, self._width))


@dataclass(frozen=True)
class LabelledVideo:
    """The sequences and annotated spans of one video, or of one person in it whom annotations name by a box."""

    video: str
    """Its name as annotated; for one person, with the number of the person."""
    sequences: tuple[LabelledSequence, ...]
    """Stretches of frames, or tracks of people; none if nobody was found."""
    items: tuple[Item, ...]
    """Annotated spans. Empty if nothing is measured on the video, as for skeletons, which are only learnt from."""


def load_videos(
    lake: LakeReader,
    uris: dict[str, str],
    annotations: Sequence[Annotation],
    labels: Sequence[str],
    scope: str,
    inputs: Sequence[str],
    video_ids: Collection[str] | None = None,
) -> list[LabelledVideo]:
    """Read the annotated videos' features and label every step of their sequences.

    If spans overlap, the one that starts later wins, because it is more specific (reading, while sitting). Any other
    label wins over the background.

    Args:
        lake: Where the features are.
        uris: For each video, as annotated, the URI that the lake knows it by.
        annotations: The labelled spans.
        labels: The activities, in the order of their ids.
        scope: `frame` for stretches of whole frames, `person` for tracks.
        inputs: The inputs that form an input vector, in order.
        video_ids: Only these videos count. A lake may also know a file as it was before it changed. None: all.

    Returns:
        Videos with at least one labelled step, in order of name. A video without features is left out. The inputs are
        in a temporary file, not in memory.
    """
    rate = float(lake.feature_options["sample_fps"])
    by_video: dict[str, list[Annotation]] = defaultdict(list)
    for annotation in annotations:
        by_video[uris[annotation.video]].append(annotation)
    known = lake.table("videos", ["video_id", "uri"]).to_pylist()
    uri_of = {
        row["video_id"]: row["uri"]
        for row in known
        if row["uri"] in by_video and (video_ids is None or row["video_id"] in video_ids)
    }
    vectors = _Vectors()
    videos: list[tuple[LabelledVideo, list[slice]]] = []
    for video_id, rows, track_ids in lake.videos(uri_of):
        of_video = by_video[uri_of[video_id]]
        n_steps = int(rows.frames.step[-1] + rows.frames.n_steps[-1]) if len(rows.frames.step) else 0
        items = list(_items(of_video, n_steps, rate, labels))
        sequences = list(rows.frame_sequences() if scope == "frame" else rows.track_sequences(track_ids))
        draws = max(annotation.draws for annotation in of_video)
        for name, of_part, its_sequences in _parts(of_video[0].video, items, sequences, scope):
            label_ids, alternatives = _labels_of_steps(of_part, n_steps, len(labels))
            labelled = tuple(_labelled(sequence, label_ids, alternatives, draws) for sequence in its_sequences)
            of_sequences = [vectors.append(rows.inputs(sequence, inputs)) for sequence in its_sequences]
            videos.append((LabelledVideo(name, labelled, tuple(of_part)), of_sequences))
    mapped = vectors.mapped()
    filled = [
        replace(
            video,
            sequences=tuple(replace(s, inputs=mapped[part]) for s, part in zip(video.sequences, parts, strict=True)),
        )
        for video, parts in videos
    ]
    return sorted(filled, key=lambda video: video.video)


def _items(annotations: Sequence[Annotation], n_steps: int, rate: float, labels: Sequence[str]) -> Iterator[Item]:
    """Yield the annotated spans of a video as spans of its steps. Spans that win over others come last."""
    for annotation in sorted(annotations, key=lambda a: (a.label != BACKGROUND, a.start_s or 0.0)):
        first = min(n_steps, step_at(annotation.start_s or 0.0, rate))
        end = n_steps if annotation.end_s is None else min(n_steps, step_at(annotation.end_s, rate))
        if annotation.is_point:
            # The step that shows the moment. Somebody may have marked the very end of the video.
            shown = int(np.floor((annotation.start_s or 0.0) * rate + 1e-6))
            first = min(shown, max(0, n_steps - 1))
            end = min(n_steps, first + 1)
        if end > first:
            others = tuple(labels.index(label) for label in annotation.alternatives)
            yield Item(annotation, labels.index(annotation.label), first, end, others)


def _labels_of_steps(
    items: Sequence[Item], n_steps: int, n_labels: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_] | None]:
    """Return the label of each step of a video, and the labels that may be right instead, as `LabelledSequence` has."""
    label_ids = np.full(n_steps, IGNORE, np.int64)
    some = any(item.alternative_ids for item in items)
    alternatives = np.zeros((n_steps, n_labels), np.bool_) if some else None
    for item in items:
        span = slice(item.first_step, item.end_step)
        label_ids[span] = item.label_id
        if alternatives is not None:
            alternatives[span] = False
            alternatives[span, list(item.alternative_ids)] = True
    return label_ids, alternatives


def step_at(time_s: float, rate: float) -> int:
    """Return the first step of the sampling grid that is not before a time."""
    return int(np.ceil(time_s * rate - 1e-6))


def _parts(
    video: str, items: Sequence[Item], sequences: Sequence[StepSequence], scope: str
) -> Iterator[tuple[str, list[Item], list[StepSequence]]]:
    """Yield name, spans and sequences: first for the spans without a named person, then for each named person.

    The former are not about those whom boxes name for as long as they are there.
    """
    by_box = scope == "person"
    plain = [item for item in items if not by_box or item.annotation.box is None]
    of_person: dict[int | None, list[Item]] = defaultdict(list)
    for item in items:
        if by_box and item.annotation.box is not None:
            track = who(item, sequences)
            of_person[None if track is None else track.track_id].append(item)
    if plain:
        others = [each for each in sequences if not _covered(each, of_person.get(each.track_id, ()))]
        yield video, plain, main_tracks(others) if by_box else others
    for track_id, of_part in of_person.items():
        its_sequences = [sequence for sequence in sequences if track_id is not None and sequence.track_id == track_id]
        yield f"{video} (person {'?' if track_id is None else track_id})", of_part, its_sequences


def _covered(sequence: StepSequence, items: Sequence[Item]) -> bool:
    """Whether every step of a sequence is in a span."""
    steps = np.arange(sequence.first_step, sequence.first_step + sequence.n_steps)
    return bool(np.any([(item.first_step <= steps) & (steps < item.end_step) for item in items], axis=0).all())


def who(item: Item, tracks: Sequence[StepSequence]) -> StepSequence | None:
    """Return the track that the box of a span refers to. None: nobody was seen there."""
    return track_at(np.array(item.annotation.box, np.float32), item.first_step, item.end_step, tracks)


def main_tracks(tracks: Sequence[StepSequence]) -> list[StepSequence]:
    """Return the tracks of people who are not much less prominent than anybody else visible at the same time."""
    spans = [(track.first_step, track.first_step + track.n_steps) for track in tracks]
    means = [float(np.average(_prominence(track), weights=track.counts)) for track in tracks]
    return [
        track
        for track, (start, end), mean in zip(tracks, spans, means, strict=True)
        if all(
            mean >= _LEAST_PROMINENT * other_mean
            for (other_start, other_end), other_mean in zip(spans, means, strict=True)
            if other_start < end and start < other_end
        )
    ]


def _prominence(sequence: StepSequence) -> NDArray[np.float32]:
    """Return area times score of each view of a person: what the detector takes for a person by mistake has low scores.

    All views of whole frames are as prominent.
    """
    if sequence.xyxy is None or sequence.scores is None:
        return np.ones(len(sequence.counts), np.float32)
    sides = sequence.xyxy[:, 2:] - sequence.xyxy[:, :2]
    prominence: NDArray[np.float32] = sides[:, 0] * sides[:, 1] * sequence.scores
    return prominence


def _labelled(
    sequence: StepSequence, label_ids: NDArray[np.int64], alternatives: NDArray[np.bool_] | None, draws: int
) -> LabelledSequence:
    """Return a sequence with its labels, but without its inputs."""
    first, end = sequence.first_step, sequence.first_step + sequence.n_steps
    weights = np.repeat(_prominence(sequence), sequence.counts)
    return LabelledSequence(
        np.empty((0, 0), np.float16),
        label_ids[first:end],
        first,
        weights,
        draws,
        None if alternatives is None else alternatives[first:end],
    )
