"""The clips that a pack is calibrated and measured on."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from pipeline.archive.sources import list_videos
from pipeline.edge.compare import Clip, Span
from pipeline.errors import UsageError


def find_clips(
    videos: str | None, labels: Path | None = None, labels_format: str | None = None, label_map: Path | None = None
) -> list[Clip]:
    """Return the clips in a folder; if labels are named, only the labelled clips, with their labelled spans.

    Args:
        videos: A file, a folder, a glob or a manifest; with labels, the folder in which their videos lie.
        labels: A file of labels, in any format that is read.
        labels_format: Its format. None: the one that it looks like.
        label_map: A CSV with other names for its labels.

    Raises:
        UsageError: A source can't be read, or labels come without videos.
    """
    if videos is None:
        if labels is not None:
            raise UsageError(f"{labels}: labels without videos; name the folder of the clips with --videos")
        return []
    if labels is None:
        return [Clip(ref.uri) for ref in list_videos([videos])]
    from pipeline.training.annotations import apply_label_map, read_label_map
    from pipeline.training.formats import read_annotations
    from pipeline.training.videos import VideoFolder

    annotations = read_annotations(labels, labels_format)
    if label_map is not None:
        annotations = apply_label_map(annotations, read_label_map(label_map))
    folder = VideoFolder(videos)
    spans: dict[str, list[Span]] = defaultdict(list)
    for each in folder.locate(annotations):
        start_s, end_s = each.start_s or 0.0, each.end_s
        spans[each.video].append(
            (each.label, start_s, end_s if end_s is not None else folder.timing(each.video).duration_s)
        )
    return [Clip(folder.uri(video), tuple(of_one)) for video, of_one in sorted(spans.items())]
