"""Cut JHMDB's clips off at the waist, to learn from people whose legs are not in the picture.

    python -m tests.bench.cut_clips ../shared/data daily/everyday.csv daily/everyday-lake daily/cut
    python -m tests.bench.unseen_eyes daily/cut daily/cut/everyday.csv daily/eyes ...    # see accuracy.md

The lake holds the whole clips. A clip in which the largest person is upright and seen to the knees gives two that end
above, at or below the hips. Whoever waves still does so. What the legs do can't be told: the others do what the whole
clip shows, or may be standing or sitting, or do nothing that has a name. `OUT` links to the sources of `DATA`, so
that the table, which also has the spans of the given one, finds all videos below it. A cut clip is in no test part.
"""

from __future__ import annotations

import argparse
import csv
import zlib
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np

from pipeline.activity.bundle import BACKGROUND
from pipeline.archive.sources import list_videos
from pipeline.lake.query import open_lake
from pipeline.lake.sequences import StepSequence, VideoRows
from pipeline.training.videos import VideoFolder
from pipeline.vision.keypoints import KEYPOINTS

Span = dict[str, str]
"""A row of the table."""

_AT = {name: [KEYPOINTS.index(f"{side}_{name}") for side in ("left", "right")] for name in
       ("shoulder", "hip", "knee", "ankle")}  # fmt: skip
_LEAST_TORSO_PX, _LEAST_SCORE = 18, 0.5
# The cut lies so many lengths of the torso below the hips.
_HIGHEST, _LOWEST = -0.25, 0.5
_OF_A_CLIP = 2
_LEAST_PX = 48
DRAWS = 2
"""How often an epoch draws a cut clip."""


def cuts(rows: VideoRows, track: StepSequence, height: int, rng: np.random.Generator) -> Iterator[int]:
    """Yield the heights in pixels at which to cut a clip; none if the person is not upright and seen to the knees."""
    assert track.box is not None
    assert track.xyxy is not None
    keypoints = rows.boxes.keypoints[track.box]
    hips, shoulders = (keypoints[:, _AT[name], 1].mean(axis=1) for name in ("hip", "shoulder"))
    torso = float(np.median(hips - shoulders))
    wide, tall = np.median(track.xyxy[:, 2:] - track.xyxy[:, :2], axis=0)
    legs_score = np.median(keypoints[:, _AT["knee"] + _AT["ankle"], 2])
    below_hips = float(np.median(track.xyxy[:, 3] - hips))
    if torso < _LEAST_TORSO_PX or tall < 1.1 * wide or legs_score < _LEAST_SCORE or below_hips < 1.1 * torso:
        return
    for _ in range(_OF_A_CLIP):
        cut = int(np.median(hips) + rng.uniform(_HIGHEST, _LOWEST) * torso) // 2 * 2
        if _LEAST_PX <= cut < height - 10:
            yield cut


def _area(track: StepSequence) -> float:
    """Return the area of a track's boxes, summed over its views, in square pixels."""
    assert track.xyxy is not None
    return float(np.prod(track.xyxy[:, 2:] - track.xyxy[:, :2], axis=1).sum())


def not_tested(span: Span) -> Span:
    """Return a row of the table that takes no part where it was for testing."""
    return {name: "" if name.startswith("split") and value == "test" else value for name, value in span.items()}


def link(source: Path, name: Path) -> None:
    """Let a folder also have another name."""
    name.parent.mkdir(parents=True, exist_ok=True)
    name.unlink(missing_ok=True)
    name.symlink_to(source.resolve())


def seen_in_part(span: Span) -> Span:
    """Return what is right for the upper part of a person, in place of the labels of a whole clip."""
    if span["label"] == "wave":
        return {}
    right = {"sit", "stand", span["label"], *filter(None, span["or"].split("|"))} - {BACKGROUND}
    return {"label": BACKGROUND, "or": "|".join(sorted(right))}


def write_cut(source: Path, target: Path, height: int) -> None:
    """Write the upper part of a video."""
    with av.open(str(source)) as whole, av.open(str(target), "w") as part:
        video = whole.streams.video[0]
        stream = part.add_stream("libx264", video.average_rate, {"crf": "20"})
        stream.width, stream.height, stream.pix_fmt = video.width // 2 * 2, height, "yuv420p"
        for frame in whole.decode(video):
            image = np.ascontiguousarray(frame.to_ndarray(format="rgb24")[:height, : stream.width], np.uint8)
            part.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        part.mux(stream.encode())


def main() -> None:
    """Write the clips and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("annotations", type=Path)
    parser.add_argument("lake")
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    with open(arguments.annotations, encoding="utf-8", newline="") as file:
        spans = list(csv.DictReader(file))
    (arguments.out / "cut").mkdir(parents=True, exist_ok=True)
    for source in {span["video"].partition("/")[0] for span in spans}:
        link(arguments.data / source, arguments.out / source)
    folder = VideoFolder(str(arguments.data))
    of_uri = {folder.uri(span["video"]): span for span in spans if span["video"].startswith("jhmdb/")}
    # A lake may also know earlier versions of the files.
    of_id = {ref.video_id: of_uri[ref.uri] for ref in list_videos(sorted(of_uri))}
    lake, added = open_lake(arguments.lake), []
    heights = {row["video_id"]: row["height"] for row in lake.table("videos", ["video_id", "height"]).to_pylist()}
    for video_id, rows, track_ids in lake.videos(list(of_id)):
        tracks, span = list(rows.track_sequences(track_ids)), of_id[video_id]
        if not tracks:
            continue
        largest = max(tracks, key=_area)
        rng = np.random.default_rng(zlib.crc32(span["video"].encode()))
        for number, cut in enumerate(cuts(rows, largest, heights[video_id], rng)):
            name = f"cut/{Path(span['video']).stem}_{number}.mp4"
            write_cut(arguments.data / span["video"], arguments.out / name, cut)
            added.append(not_tested(span) | {"video": name, "draws": str(DRAWS)} | seen_in_part(span))
    with open(arguments.out / "everyday.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(spans[0]))
        writer.writeheader()
        writer.writerows([*spans, *added])
    print(f"{len(added)} clips were cut off, of {len(of_uri)}")


if __name__ == "__main__":
    main()
