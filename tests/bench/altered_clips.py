"""Alter real clips, to learn from what the detector and the pose network make of other views of the same people.

    python -m tests.bench.altered_clips ../shared/data daily/everyday.csv daily/everyday-lake daily/altered

The lake holds the clips as they are. `OUT` gets the altered ones, a table with their spans and those of the given one,
and links to the sources of `DATA`, so that all videos of the table are below it. An altered clip is in no test part.

* *Cut off*: each clip of JHMDB in which the largest person is upright and seen to the knees gives two that end above,
  at or below the hips. Whoever waves still does so. What the legs do can't be told: the others may be standing or
  sitting, or do nothing that has a name.
* *Retaken*: each clip of GMDCSA24 six times, and of JHMDB once, as another camera may have shown it: mirrored, tilted,
  nearer or farther, from aside, darker or brighter, softer, more compressed, faster or slower. The largest person stays
  in the picture. The clip and its retakes share what it was drawn before.
"""

from __future__ import annotations

import argparse
import csv
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.archive.sources import list_videos
from pipeline.lake.query import open_lake
from pipeline.lake.sequences import StepSequence, VideoRows
from pipeline.training.videos import VideoFolder
from pipeline.vision.keypoints import KEYPOINTS

Image = NDArray[np.uint8]
"""`uint8 [H, W, 3]`, RGB."""
Span = dict[str, str]
"""A row of the table."""

_AT = {name: [KEYPOINTS.index(f"{side}_{name}") for side in ("left", "right")] for name in
       ("shoulder", "hip", "knee", "ankle")}  # fmt: skip
_LEAST_TORSO_PX, _LEAST_SCORE = 18, 0.5
# The cut lies so many lengths of the torso below the hips.
_HIGHEST, _LOWEST = -0.25, 0.5
_CUTS = 2
_LEAST_PX = 48
CUT_DRAWS = 2
"""How often an epoch draws a cut clip."""

RETAKES = {"gmdcsa24": 6, "jhmdb": 1}
_NEAREST = {"gmdcsa24": 1.4, "jhmdb": 1.15}
"""Largest enlargement: JHMDB's people fill the picture."""
RETAKEN_SHARE = Fraction(1, 3)
"""The share of a clip's draws that its retakes get."""
# Of the person's box, this share stays in the picture, and it stays this tall.
_STAYS, _LEAST_TALL_PX = 0.93, 40
_TRIES = 40


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
    for _ in range(_CUTS):
        cut = int(np.median(hips) + rng.uniform(_HIGHEST, _LOWEST) * torso) // 2 * 2
        if _LEAST_PX <= cut < height - 10:
            yield cut


@dataclass(frozen=True)
class Camera:
    """Another camera: where it stands, its light, its lens, its coder and its clock."""

    view: NDArray[np.float64]
    """`float64 [3, 3]`: from the clip's pixels to its own."""
    gamma: float
    sharpness: float
    """Its pixels in a width, as a share of the clip's."""
    crf: int
    """x264's constant rate factor."""
    speed: float

    def take(self, image: Image) -> Image:
        """Return what it shows of a frame."""
        height, width = image.shape[:2]
        lights = (255 * (np.arange(256) / 255) ** self.gamma).astype(np.uint8)
        taken = lights[cv2.warpPerspective(image, self.view, (width, height), flags=cv2.INTER_LINEAR)]
        if self.sharpness < 1:
            small = cv2.resize(taken, None, fx=self.sharpness, fy=self.sharpness, interpolation=cv2.INTER_AREA)
            taken = np.asarray(cv2.resize(small, (width, height)), np.uint8)
        return np.ascontiguousarray(taken)


def any_camera(rng: np.random.Generator, size: tuple[int, int], xyxy: NDArray[np.float32], nearest: float) -> Camera:
    """Return a camera that shows a person, whose boxes are `float32 [N, 4]`, in a clip of such a width and height."""
    view = _view(rng, size, xyxy, nearest)
    gamma = np.exp(rng.uniform(-0.7, 0.7))
    is_soft, softness = rng.random() < 0.35, rng.uniform(0.4, 0.7)
    crf, speed = int(rng.integers(20, 34)), np.exp(rng.uniform(-0.2, 0.2))
    return Camera(view, float(gamma), float(softness) if is_soft else 1.0, crf, float(speed))


def _view(
    rng: np.random.Generator, size: tuple[int, int], xyxy: NDArray[np.float32], nearest: float
) -> NDArray[np.float64]:
    """Return a view that shows enough of the boxes, or that of many which shows most."""
    sides = np.array(size)
    corners = np.array([[0, 0], [sides[0], 0], sides, [0, sides[1]]], np.float64)
    between = (xyxy.mean(axis=0).reshape(2, 2).mean(axis=0) + sides / 2) / 2
    people = np.clip(xyxy[:, [[0, 1], [2, 1], [2, 3], [0, 3]]].reshape(-1, 1, 2), 0, sides).astype(np.float32)
    best, most = np.eye(3), -1.0
    for _ in range(_TRIES):
        mirrored = -1 if rng.random() < 0.5 else 1
        tilt = np.deg2rad(np.clip(rng.normal(0, 8), -20, 20))
        zoom = np.exp(rng.uniform(np.log(0.55), np.log(nearest)))
        widened = np.exp(rng.uniform(-0.12, 0.12))
        moved = rng.normal(0, 0.12, 2) * sides
        turn = np.array([[np.cos(tilt), np.sin(tilt)], [-np.sin(tilt), np.cos(tilt)]])
        seen = (corners - between) * [widened * mirrored, 1] @ turn * zoom
        seen += rng.normal(0, 0.04, (4, 2)) * sides + sides / 2 + moved
        view = np.asarray(cv2.getPerspectiveTransform(corners.astype(np.float32), seen.astype(np.float32)), np.float64)
        boxes = cv2.perspectiveTransform(people, view).reshape(-1, 4, 2)
        low, high = boxes.min(axis=1), boxes.max(axis=1)
        shown = np.clip(np.minimum(high, sides) - np.maximum(low, 0), 0, None)
        share = float((shown.prod(axis=1) / np.maximum((high - low).prod(axis=1), 1)).mean())
        if share > most:
            best, most = view, share
        if share > _STAYS and (high - low)[:, 1].mean() > _LEAST_TALL_PX:
            return view
    return best


def write_clip(
    source: Path,
    target: Path,
    size: tuple[int, int],
    options: Mapping[str, str],
    change: Callable[[Image], Image] = np.ascontiguousarray,
    speed: float = 1,
) -> None:
    """Write the upper left part of a video, of an even width and height, changed and at another speed."""
    with av.open(str(source)) as whole, av.open(str(target), "w") as altered:
        video = whole.streams.video[0]
        assert video.average_rate is not None
        rate = Fraction(round(float(video.average_rate) * speed * 100), 100)
        stream = altered.add_stream("libx264", rate, dict(options))
        (stream.width, stream.height), stream.pix_fmt = size, "yuv420p"
        for frame in whole.decode(video):
            image = change(np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)[: size[1], : size[0]])
            altered.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        altered.mux(stream.encode())


def cut_spans(
    data: Path, out: Path, spans: Sequence[Span], rows: VideoRows, track: StepSequence, size: tuple[int, int]
) -> Iterator[Span]:
    """Write the cut clips of one clip, and yield their spans."""
    (span,) = spans
    rng = np.random.default_rng(zlib.crc32(span["video"].encode()))
    label = {} if span["label"] == "wave" else {"label": "background", "or": "sit|stand"}
    for number, height in enumerate(cuts(rows, track, size[1], rng)):
        name = f"{_source(span)}-cut/{Path(span['video']).stem}_{number}.mp4"
        write_clip(data / span["video"], out / name, (size[0], height), {"crf": "20"})
        yield span | _never_tested(span) | label | {"video": name, "draws": str(CUT_DRAWS)}


def retaken_spans(
    data: Path, out: Path, spans: Sequence[Span], track: StepSequence, size: tuple[int, int]
) -> Iterator[Span]:
    """Write the retakes of one clip, and yield their spans."""
    assert track.xyxy is not None
    video = spans[0]["video"]
    source = _source(spans[0])
    for number in range(RETAKES[source]):
        rng = np.random.default_rng(zlib.crc32(f"{video} {number}".encode()))
        camera = any_camera(rng, size, track.xyxy, _NEAREST[source])
        name = f"{source}-retaken/{Path(video).stem}_{number}.mp4"
        options = {"crf": str(camera.crf), "preset": "veryfast"}
        write_clip(data / video, out / name, size, options, camera.take, camera.speed)
        for span in spans:
            times = {key: f"{float(span[key]) / camera.speed:.3f}" for key in ("start_s", "end_s") if span[key]}
            draws = int(span["draws"]) * RETAKEN_SHARE // RETAKES[source]
            yield span | _never_tested(span) | times | {"video": name, "draws": str(draws)}


def _source(span: Span) -> str:
    return span["video"].partition("/")[0]


def _never_tested(span: Span) -> Span:
    """Return the parts of an altered clip in each split: none instead of the test part."""
    return {split: "" if part == "test" else part for split, part in span.items() if split.startswith("split")}


def _area(track: StepSequence) -> float:
    """Return the area of a track's boxes, summed over its views, in square pixels."""
    assert track.xyxy is not None
    return float(np.prod(track.xyxy[:, 2:] - track.xyxy[:, :2], axis=1).sum())


def _link_sources(data: Path, out: Path, sources: set[str]) -> None:
    for source in sources:
        link = out / source
        link.unlink(missing_ok=True)
        link.symlink_to((data / source).resolve())


def main() -> None:
    """Write the clips and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("annotations", type=Path)
    parser.add_argument("lake")
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    data, out = arguments.data, arguments.out
    with open(arguments.annotations, encoding="utf-8", newline="") as file:
        spans: list[Span] = list(csv.DictReader(file))
    for folder_of_altered in ("jhmdb-cut", *(f"{source}-retaken" for source in RETAKES)):
        (out / folder_of_altered).mkdir(parents=True, exist_ok=True)
    _link_sources(data, out, {_source(span) for span in spans})
    folder = VideoFolder(str(data))
    spans_of: dict[str, list[Span]] = defaultdict(list)
    for span in spans:
        if _source(span) in RETAKES:
            spans_of[folder.uri(span["video"])].append(span)
    # A lake may also know earlier versions of the files.
    of_id = {ref.video_id: spans_of[ref.uri] for ref in list_videos(sorted(spans_of))}
    lake = open_lake(arguments.lake)
    cut: list[Span] = []
    retaken: list[Span] = []
    facts = lake.table("videos", ["video_id", "width", "height"]).to_pylist()
    sizes = {row["video_id"]: (row["width"] // 2 * 2, row["height"] // 2 * 2) for row in facts}
    for video_id, rows, track_ids in lake.videos(list(of_id)):
        tracks, of_clip, size = list(rows.track_sequences(track_ids)), of_id[video_id], sizes[video_id]
        if not tracks:
            continue
        largest = max(tracks, key=_area)
        if _source(of_clip[0]) == "jhmdb":
            cut += cut_spans(data, out, of_clip, rows, largest, size)
        retaken += retaken_spans(data, out, of_clip, largest, size)
    kept = [
        span | {"draws": str(int(int(span["draws"]) * (1 - RETAKEN_SHARE)))} if _source(span) in RETAKES else span
        for span in spans
    ]
    with open(out / "everyday.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(spans[0]))
        writer.writeheader()
        writer.writerows([*kept, *retaken, *cut])
    print(f"{len(of_id)} clips; cut off: {len(cut)}; retaken: {len({span['video'] for span in retaken})}")


if __name__ == "__main__":
    main()
