"""From a lake's features and annotations to labelled sequences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.lake.query import LakeReader
from pipeline.training.annotations import Annotation
from pipeline.training.fit import IGNORE, LabelledSequence


@dataclass(frozen=True)
class Item:
    """One annotated span: what accuracy counts."""

    annotation: Annotation
    label_id: int
    first_step: int
    """Relative to the start of the sequence."""
    end_step: int


@dataclass(frozen=True)
class LabelledVideo:
    """One video's whole sequence with its annotated spans."""

    video: str
    sequence: LabelledSequence
    items: tuple[Item, ...]


def load_videos(
    lake: LakeReader, uris: dict[str, str], annotations: Sequence[Annotation], labels: Sequence[str]
) -> list[LabelledVideo]:
    """Read the annotated videos' frame features and label every step of the sampling grid.

    Where spans overlap, the one that starts later wins: it is the more special one (reading, while sitting).

    Args:
        lake: Where the features are.
        uris: For each video, as annotated, the URI that the lake knows it by.
        annotations: What is labelled.
        labels: The activities, in the order of their ids.

    Returns:
        Videos with at least one labelled step, in order of name. A video without features is left out.
    """
    rate = float(lake.feature_options["sample_fps"])
    by_video: dict[str, list[Annotation]] = {}
    for annotation in annotations:
        by_video.setdefault(annotation.video, []).append(annotation)
    ids = dict(zip(*(lake.table("videos", ["uri", "video_id"]).column(i).to_pylist() for i in (0, 1)), strict=True))
    wanted = {ids[uri] for uri in uris.values() if uri in ids}
    features = _features_by_video(lake, wanted)
    videos = []
    for video, of_video in sorted(by_video.items()):
        found = features.get(ids.get(uris[video], ""))
        if found is None:
            continue
        steps, inputs = found
        label_ids = np.full(len(steps), IGNORE, np.int64)
        items = []
        for annotation in sorted(of_video, key=lambda a: a.start_s or 0.0):
            first = np.searchsorted(steps, (annotation.start_s or 0.0) * rate - 1e-6)
            end = len(steps) if annotation.end_s is None else np.searchsorted(steps, annotation.end_s * rate - 1e-6)
            if end > first:
                label_id = labels.index(annotation.label)
                label_ids[first:end] = label_id
                items.append(Item(annotation, label_id, int(first), int(end)))
        if items:
            videos.append(LabelledVideo(video, LabelledSequence(inputs, label_ids), tuple(items)))
    return videos


def _features_by_video(lake: LakeReader, wanted: set[str]) -> dict[str, tuple[NDArray[np.int64], NDArray[np.float16]]]:
    """Return `(steps, float16 [T, D])` of the wanted videos' frames, a row for every step."""
    found = {}
    of_frames = (pc.field("scope") == "frame") & pc.field("video_id").isin(sorted(wanted))
    dataset = lake.dataset("features")
    columns = ["video_id", "step", "n_steps", "embedding"]
    for fragment in dataset.get_fragments():
        table = fragment.to_table(columns=columns, filter=of_frames).combine_chunks()
        if not len(table):
            continue
        ids = table["video_id"].to_numpy()
        starts = np.flatnonzero(np.append(True, ids[1:] != ids[:-1]))
        embedding = table["embedding"].combine_chunks()
        flat = embedding.flatten().to_numpy(zero_copy_only=True).reshape(len(embedding), -1)
        step, counts = table["step"].to_numpy(), table["n_steps"].to_numpy()
        for start, end in zip(starts, np.append(starts[1:], len(ids)), strict=True):
            repeats = counts[start:end]
            within = np.arange(repeats.sum()) - np.repeat(np.cumsum(repeats) - repeats, repeats)
            found[ids[start]] = (
                np.repeat(step[start:end], repeats) + within,
                np.repeat(flat[start:end], repeats, axis=0),
            )
    return found
