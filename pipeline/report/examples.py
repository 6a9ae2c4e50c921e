"""Read examples for a search from existing labels."""

from __future__ import annotations

from pathlib import Path

from pipeline.activity.bundle import BACKGROUND
from pipeline.lake.examples import Example
from pipeline.lake.query import LakeReader
from pipeline.training.formats import read_annotations
from pipeline.training.videos import LakeVideos


def read_examples(lake: LakeReader, path: str | Path, annotation_format: str | None = None) -> list[Example]:
    """Return annotated spans of a lake's videos as examples. Spans labelled `background` are negative examples.

    Args:
        lake: An open lake.
        path: Labels in one of the formats that `read_annotations` reads.
        annotation_format: The format. None: it is detected.

    Raises:
        UsageError: The labels can't be read, or a labelled video is not in the lake, or its name is ambiguous there.
    """
    located = LakeVideos(lake, lake.store.uri).locate(read_annotations(path, annotation_format))
    rows = lake.table("videos", ["video_id", "uri", "duration_s"]).to_pylist()
    of_uri = {row["uri"]: row for row in rows}
    examples = []
    for each in located:
        row = of_uri[each.video]
        start_s = each.start_s or 0.0
        end_s = each.end_s if each.end_s is not None else max(start_s, row["duration_s"] or 0.0)
        is_negative = each.label == BACKGROUND
        examples.append(Example(row["video_id"], start_s, end_s, None, each.box, each.label, is_negative, each.where))
    return examples
