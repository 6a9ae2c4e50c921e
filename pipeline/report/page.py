"""The page that shows a lake: timelines, a table, totals and clips. It needs no network."""

from __future__ import annotations

import importlib.resources
import json
import math
import posixpath
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import pyarrow as pa

from pipeline.lake.query import LakeReader
from pipeline.report.drawing import SEEN_SCORE
from pipeline.vision.keypoints import BONES

_SCRIPTS = (
    "data.js",
    "drawn.js",
    "timeline.js",
    "paths.js",
    "player.js",
    "table.js",
    "totals.js",
    "review.js",
    "main.js",
)


def page_data(
    lake: LakeReader,
    segments: pa.Table,
    title: str,
    clips: Sequence[Mapping[str, Any]] = (),
    thumbs: Mapping[str, str] | None = None,
    without_clip: Mapping[str, str] | None = None,
    note: str = "",
    review: Mapping[str, Any] | None = None,
    ranked: bool = False,
) -> dict[str, Any]:
    """Return the content of the page, to be written as JSON.

    Args:
        lake: The lake of the videos and failures.
        segments: Rows of `segments`.
        title: Title of the page.
        clips: For each clip `video_id`, `start_s`, `end_s`, and the files `file` and `scene`.
        thumbs: The thumbnail of each segment, by id.
        without_clip: For segments without a clip: the reason, by id.
        note: A text to show beside the counts.
        review: The data of a review. None: the page is no review.
        ranked: The segments are the hits of a search, the most similar first. Their score is a likeness.
    """
    names = ["video_id", "uri", "duration_s", "covered_s", "width", "height", "status", "recorded_at", "camera"]
    rows = sorted(lake.table("videos", names).to_pylist(), key=lambda row: (row["uri"], row["video_id"]))
    number = {row["video_id"]: i for i, row in enumerate(rows)}
    last: dict[str, float] = {}
    for video_id, end_s in zip(segments["video_id"].to_pylist(), segments["end_s"].to_pylist(), strict=True):
        last[video_id] = max(end_s, last.get(video_id, 0.0))
    shown = short_names([row["uri"] for row in rows])
    labels = _most_time_first(segments)
    models = sorted(set(segments["model"].to_pylist()))
    return {
        "title": title,
        "note": note,
        "labels": labels,
        "colours": _colours(segments, labels),
        "models": models,
        "videos": [
            {
                "id": row["video_id"], "uri": row["uri"], "name": name, "start": 0,
                "end": max(row["duration_s"] or 0.0, last.get(row["video_id"], 0.0)),
                "covered": row["covered_s"] or 0.0, "width": row["width"] or 16, "height": row["height"] or 10,
                "status": row["status"] or "ok", "camera": row["camera"],
                "recorded_at": row["recorded_at"].isoformat() if row["recorded_at"] else None,
            }
            for row, name in zip(rows, shown, strict=True)
        ],
        "segments": {
            "id": segments["segment_id"].to_pylist(),
            "video": [number[video_id] for video_id in segments["video_id"].to_pylist()],
            "track": segments["track_id"].to_pylist(),
            "label": [labels.index(label) for label in segments["label"].to_pylist()],
            "model": [models.index(model) for model in segments["model"].to_pylist()],
            **{
                name: [_rounded(value) for value in segments[column].to_pylist()]
                for name, column in (("start", "start_s"), ("end", "end_s"), ("score", "score"), ("novelty", "novelty"))
            },
        },
        "clips": [
            {"video": number[clip["video_id"]], "start": clip["start_s"], "end": clip["end_s"],
             "file": clip["file"], "scene": clip["scene"]}
            for clip in clips
        ],
        # Sorted, whichever clip was cut first, so that the same lake gives the same page, byte for byte.
        "thumbs": dict(sorted((thumbs or {}).items())),
        "without_clip": dict(sorted((without_clip or {}).items())),
        "failures": [
            {"name": row["uri"], "start": row["start_s"], "end": row["end_s"],
             **{name: row[name] for name in ("stage", "kind", "message")}}
            for row in lake.table("failures").to_pylist()
        ],
        "bones": BONES,
        "foretold": bool(lake.store.models("forecasts")),
        "seen_score": SEEN_SCORE,
        "review": review,
        "ranked": ranked,
        "score_name": "likeness" if ranked else "score",
    }  # fmt: skip


def render(data: Mapping[str, Any]) -> str:
    """Return the page as HTML. No text in names and labels can become markup."""
    folder = importlib.resources.files("pipeline.report") / "page"
    text = {name: (folder / name).read_text(encoding="utf-8") for name in ("page.html", "page.css", *_SCRIPTS)}
    content = json.dumps(data, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    parts = {
        "title": escape(str(data["title"])),
        "style": text["page.css"],
        # A tag would end or open an element within a script, too.
        "data": content.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"),
        "script": "\n".join(text[name].replace('"use strict";\n', "", 1) for name in _SCRIPTS),
    }
    # In a single pass, so that placeholders in the inserted text are not replaced.
    return re.sub(r"\{(title|style|data|script)\}", lambda found: parts[found[1]], text["page.html"])


def _colours(segments: pa.Table, labels: Sequence[str]) -> list[int]:
    """Return a colour number for each label: the model's own number if it has one, so that reports can be compared."""
    columns = (segments[name].to_pylist() for name in ("label", "label_id"))
    known = {label: number for label, number in zip(*columns, strict=True) if number is not None}
    # In most models label 0 is the background, which is never shown. -1 stands for the last colour.
    return [known[label] - 1 if label in known else place for place, label in enumerate(labels)]


def _rounded(value: float | None) -> float | None:
    """Return a rounded number, or None where JSON has no such number."""
    return None if value is None or not math.isfinite(value) else round(value, 3)


def _most_time_first(segments: pa.Table) -> list[str]:
    seconds: Counter[str] = Counter()
    columns = (segments[name].to_pylist() for name in ("label", "start_s", "end_s"))
    for label, start_s, end_s in zip(*columns, strict=True):
        seconds[label] += end_s - start_s
    return [label for label, _ in sorted(seconds.items(), key=lambda item: (-item[1], item[0]))]


def short_names(uris: Sequence[str]) -> list[str]:
    """Return the file name of each URI. If several URIs share one, their folder stands before it."""
    names = [posixpath.basename(uri) for uri in uris]
    shared = Counter(posixpath.basename(uri) for uri in set(uris))
    return ["/".join(uri.split("/")[-2:]) if shared[name] > 1 else name for uri, name in zip(uris, names, strict=True)]
