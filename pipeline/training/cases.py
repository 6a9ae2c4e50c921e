"""Evaluate the segments of a lake against annotations of its videos."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from pipeline.activity.bundle import BACKGROUND
from pipeline.errors import UsageError
from pipeline.lake.examples import track_at
from pipeline.lake.query import LakeReader, open_lake
from pipeline.lake.sequences import StepSequence
from pipeline.training.annotations import Annotation, apply_label_map, read_label_map
from pipeline.training.dataset import step_at
from pipeline.training.evaluation import Case, Evaluation, evaluate_cases
from pipeline.training.formats import read_annotations
from pipeline.training.metrics import Span, found_for_longest
from pipeline.training.videos import LakeVideos


@dataclass(frozen=True)
class LakeEvaluation:
    """The evaluation of one model's segments in a lake."""

    model: str
    n_missing: int
    """Annotated videos that the lake does not hold. They were left out."""
    evaluation: Evaluation


def evaluate_lake(
    lake: str,
    annotations: str | Path,
    model: str | None = None,
    split: str | None = None,
    annotation_format: str | None = None,
    label_map: str | Path | None = None,
    partial: bool = False,
    n_draws: int = 500,
) -> LakeEvaluation:
    """Compare a model's segments with annotations. Videos without annotations take no part.

    Args:
        lake: The lake.
        annotations: Labels in one of the `FORMATS` that `read_annotations` reads.
        model: The model whose segments are evaluated. None: the only model in the lake.
        split: A split of the annotations: only its `test` part (else `val`) takes part.
        annotation_format: The format of the labels. None: it is detected.
        label_map: CSV with columns `from` and `to`: other names for annotated labels.
        partial: Leave out annotated videos that the lake does not hold.
        n_draws: How often videos are resampled for the intervals.

    Raises:
        UsageError: The annotations can't be used, a video is not in the lake, or there is no such model or split.
    """
    reader = open_lake(lake)
    chosen = reader.model(model)
    records = read_annotations(annotations, annotation_format)
    if label_map is not None:
        records = apply_label_map(records, read_label_map(label_map))
    if split is not None:
        records = _of_split(records, split, annotations)
    videos = LakeVideos(reader, lake)
    missing = {each.video for each in records if partial and not videos.holds(each)}
    located = videos.locate([each for each in records if each.video not in missing])
    if not located:
        raise UsageError(f"{annotations}: none of its videos is in lake {lake}")
    step_s = 1 / float(reader.feature_options["sample_fps"])
    located = [_ending(each, videos.timing(each.video).duration_s, step_s) for each in located]
    cases, labels = _cases(reader, located, chosen)
    return LakeEvaluation(chosen, len(missing), evaluate_cases(cases, labels, step_s, BACKGROUND, n_draws))


def _of_split(records: Sequence[Annotation], split: str, source: str | Path) -> list[Annotation]:
    known = sorted({name for each in records for name in each.splits})
    if split not in known:
        raise UsageError(f"{source}: no split {split!r} in it, but {', '.join(known) or 'none'}")
    for part in ("test", "val"):
        of_part = [each for each in records if each.splits.get(split) == part]
        if of_part:
            return of_part
    raise UsageError(f"{source}: nothing is test or val in {split}")


def _ending(annotation: Annotation, duration_s: float, step_s: float) -> Annotation:
    """Return an annotation with an end: that of its video if it has none, one step later if it marks one moment."""
    if annotation.is_point:
        return replace(annotation, end_s=(annotation.start_s or 0.0) + step_s)
    return annotation if annotation.end_s is not None else replace(annotation, end_s=duration_s)


def _cases(reader: LakeReader, annotations: Sequence[Annotation], model: str) -> tuple[list[Case], tuple[str, ...]]:
    columns = ["video_id", "track_id", "uri", "label", "start_s", "end_s", "score", "x1", "y1", "x2", "y2"]
    rows = reader.table("segments", columns, pc.field("model") == model).to_pylist()
    of_video: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        of_video[row["uri"]].append(row)
    true: dict[str, list[Annotation]] = defaultdict(list)
    for each in annotations:
        true[each.video].append(each)
    # A span about one person says nothing about the rest of the video, so it is a case of its own.
    cases_of = [
        *((uri, plain, of_video[uri]) for uri, spans in true.items() if (plain := [s for s in spans if s.box is None])),
        *(
            (each.video, [each], _meant(reader, of_video[each.video], each))
            for each in annotations
            if each.box is not None
        ),
    ]
    found_labels = {row["label"] for _, _, found in cases_of for row in found}
    cases_of = [(uri, [_chosen(each, found) for each in spans], found) for uri, spans, found in cases_of]
    labels = tuple(sorted({each.label for _, spans, _ in cases_of for each in spans} | found_labels))
    ids = {label: number for number, label in enumerate(labels)}
    cases = [
        Case(
            uri,
            tuple(Span(ids[each.label], each.start_s or 0.0, each.end_s or 0.0) for each in spans),
            tuple(Span(ids[row["label"]], row["start_s"], row["end_s"], row["score"]) for row in found),
            tuple(_area(row) for row in found),
        )
        for uri, spans, found in cases_of
    ]
    return cases, labels


def _chosen(annotation: Annotation, rows: Sequence[dict[str, Any]]) -> Annotation:
    """Return an annotation with the one of its possible labels that was found for longest."""
    labels = (annotation.label, *annotation.alternatives)
    found = ((row["label"], row["start_s"], row["end_s"]) for row in rows)
    return replace(
        annotation, label=found_for_longest(labels, annotation.start_s or 0.0, annotation.end_s or 0.0, found)
    )


def _meant(reader: LakeReader, rows: Sequence[dict[str, Any]], annotation: Annotation) -> list[dict[str, Any]]:
    """Return the segments of the person in an annotation's box, cut to the span of the annotation."""
    start_s, end_s = annotation.start_s or 0.0, annotation.end_s or 0.0
    box, rate = np.array(annotation.box, np.float32), float(reader.feature_options["sample_fps"])
    first, end = step_at(start_s, rate), max(step_at(end_s, rate), step_at(start_s, rate) + 1)
    meant = {}
    for video_id in {row["video_id"] for row in rows}:
        track = track_at(box, first, end, _tracks(reader, video_id, start_s, end_s))
        meant[video_id] = None if track is None else track.track_id
    return [
        row | {"start_s": max(row["start_s"], start_s), "end_s": min(row["end_s"], end_s)}
        for row in rows
        if row["start_s"] < end_s
        and row["end_s"] > start_s
        # If people are not tracked, the segments of the whole frame count for them, too.
        and (row["track_id"] is None or row["track_id"] == meant[row["video_id"]])
    ]


def _tracks(reader: LakeReader, video_id: str, start_s: float, end_s: float) -> list[StepSequence]:
    """Return the tracks of the people of a video in a span."""
    within = pc.field("track_id").is_valid() & (pc.field("pts_s") >= start_s) & (pc.field("pts_s") < end_s)
    columns = ["track_id", "frame_index", "x1", "y1", "x2", "y2"]
    boxes = reader.rows_of("detections", video_id, columns, within)
    boxes = boxes.sort_by([("track_id", "ascending"), ("frame_index", "ascending")])
    track_ids, steps = boxes["track_id"].to_numpy(), boxes["frame_index"].to_numpy()
    xyxy = np.stack([boxes[name].to_numpy() for name in ("x1", "y1", "x2", "y2")], axis=1)
    tracks = np.split(np.arange(len(steps)), np.flatnonzero(np.diff(track_ids)) + 1) if len(steps) else []
    return [
        StepSequence(int(steps[of][0]), np.append(np.diff(steps[of]), 1), of, of, xyxy[of], int(track_ids[of[0]]))
        for of in tracks
    ]


def _area(row: dict[str, Any]) -> float:
    """Return the area of a person's mean box in pixels. Whole frames all have the same area."""
    x1, y1, x2, y2 = (row[name] for name in ("x1", "y1", "x2", "y2"))
    if x1 is None:
        return 1.0
    return max(1.0, float(x2 - x1)) * max(1.0, float(y2 - y1))
