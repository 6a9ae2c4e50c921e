"""Cut the material of a page out of the videos: clips, positions of people in them, and a thumbnail per segment."""

from __future__ import annotations

import base64
import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.archive import filesystem
from pipeline.errors import UnforeseenError, UsageError, VideoError
from pipeline.lake.query import LakeReader, open_lake
from pipeline.report.drawing import SEEN_SCORE, draw_person
from pipeline.report.footage import Footage
from pipeline.report.scene import SHOWN_S, Scene, read_scene
from pipeline.video.clips import LONGEST_PX, Clip, write_clip

LONGEST_S = 60.0
"""Longest clip of a page, in seconds."""
# A page shows only this much of a longer segment, from its start.
_SHOWN_S = 20.0
_THUMB_SIZE = (120, 76)
# Size of the part that a thumbnail shows, as a multiple of the person's box.
_AROUND = 1.5


@dataclass(frozen=True)
class Still:
    """A thumbnail of a segment."""

    segment_id: str
    time_s: float
    """Seconds into the video."""
    track_id: int | None


@dataclass(frozen=True)
class Cut:
    """A stretch of a video to cut."""

    name: str
    """Name of its files, without a suffix."""
    video_id: str
    uri: str
    size_bytes: int | None
    start_s: float
    end_s: float
    stills: tuple[Still, ...] = ()


@dataclass(frozen=True)
class CutResult:
    """The outcome of a cut."""

    start_s: float = 0.0
    end_s: float = 0.0
    n_bytes: int = 0
    """Size of all its files."""
    failure: str = ""
    """Why there is no clip. Empty: there is one."""


@dataclass(frozen=True)
class Written:
    """A written page, or written clips with their table."""

    path: Path
    """The page, or the table of the clips."""
    n_segments: int
    n_clips: int
    n_bytes: int
    """Size of the page with all its files, or of the clips."""
    without_clip: dict[str, str]
    """For segments without a clip: the reason, by segment id."""


@dataclass(frozen=True)
class CutOptions:
    """Where the videos are, and how to cut them. It is sent to the workers."""

    lake: str
    folder: str
    videos_root: str | None = None
    model: str | None = None
    """The model whose labels are drawn."""
    draw: bool = False
    """Draw boxes, poses and labels into the frames. Only without `for_page`."""
    for_page: bool = True
    """Also write the positions of people, and the thumbnails, as files beside the clip."""
    longest_px: int = LONGEST_PX

    def __post_init__(self) -> None:
        # The path is resolved here, because a worker may have another working directory.
        if self.videos_root is not None:
            object.__setattr__(self, "videos_root", filesystem.canonical_uri(self.videos_root))


Run = Callable[[CutOptions, Iterable[Cut]], Iterator[tuple[Cut, CutResult]]]
"""A function that cuts all stretches, in any order. See `pipeline.engine.cuts`."""


class Cutter:
    """Cuts one stretch after the other."""

    def __init__(self, options: CutOptions) -> None:
        """Open the lake."""
        self._options = options
        self._lake = open_lake(options.lake)
        self._footage = Footage(options.videos_root)

    def cut(self, cut: Cut) -> CutResult:
        """Write the files of a cut, and return their size, or why there are none.

        An error in a video affects only its own cuts.

        Raises:
            UsageError: The folder can't be written to.
        """
        try:
            clip, files = self._written(cut)
        except UsageError:
            raise
        except VideoError as error:
            return CutResult(failure=str(error))
        except Exception as error:
            return CutResult(failure=str(UnforeseenError("cutting", error)))
        return CutResult(clip.start_s, clip.end_s, sum(path.stat().st_size for path in files))

    def _written(self, cut: Cut) -> tuple[Clip, list[Path]]:
        options, folder = self._options, Path(self._options.folder)
        uri, probe = self._footage.find(cut.uri, cut.size_bytes)
        out = folder / f"{cut.name}.mp4"
        with _told_as(folder):
            out.parent.mkdir(parents=True, exist_ok=True)
        scene = None if options.for_page else self._scene(cut, cut.start_s, cut.end_s)
        draw = None if scene is None or not options.draw else drawn_over(scene, probe.width)
        with _told_as(folder):
            clip = write_clip(uri, probe, cut.start_s, cut.end_s, out, options.longest_px, draw)
        if not options.for_page:
            return clip, [out]
        scene = self._scene(cut, clip.start_s, clip.end_s)
        beside = folder / f"{cut.name}.js"
        with _told_as(folder):
            beside.write_text(scene_script(f"clips/{cut.name}.js", clip, scene), encoding="utf-8")
            stills = _write_stills(clip, scene, cut.stills, folder, (probe.width, probe.height))
        return clip, [out, beside, *stills]

    def _scene(self, cut: Cut, start_s: float, end_s: float) -> Scene:
        return read_scene(self._lake, cut.video_id, start_s - 1, end_s + 1, self._options.model)


@contextmanager
def _told_as(folder: Path) -> Iterator[None]:
    """Raise an error in writing as a `UsageError` that names the folder."""
    try:
        yield
    except OSError as error:
        raise UsageError(f"{folder}: can't be written to ({error.strerror or error})") from error


def unfinished(folder: Path, n_clips: int, lacking: str) -> str:
    """Return the message for a folder of clips whose writing was interrupted."""
    return f"{n_clips} clips are in {folder}, but no {lacking}; the same command starts again"


def drawn_over(scene: Scene, width: int) -> Callable[[NDArray[np.uint8], float], None]:
    """Return a function that draws all people of a scene onto a frame. `width`: of the source video, in pixels."""

    def draw(image: NDArray[np.uint8], time_s: float) -> None:
        for person in scene.at(time_s):
            draw_person(image, person, image.shape[1] / width)

    return draw


def plan_cuts(lake: LakeReader, rows: Sequence[dict[str, Any]], margin_s: float = 1.0) -> list[Cut]:
    """Return the clips that show each segment with a margin. Segments at about the same time share a clip.

    Args:
        lake: The lake of the segments.
        rows: Rows of `segments`, sorted by `uri` and `start_s`.
        margin_s: Seconds before and after a segment.
    """
    videos = {
        row["video_id"]: row for row in lake.table("videos", ["video_id", "size_bytes", "duration_s"]).to_pylist()
    }
    cuts: list[Cut] = []
    for video_id, group in itertools.groupby(rows, lambda row: row["video_id"]):
        of_video, video = list(group), videos[video_id]
        last_s = video["duration_s"] or math.inf
        for start_s, end_s, stills in _together(of_video, margin_s, last_s):
            edges = np.linspace(start_s, end_s, math.ceil((end_s - start_s) / LONGEST_S) + 1).tolist()
            for first, last in itertools.pairwise(edges):
                of_part = tuple(still for still in stills if first <= still.time_s < last)
                uri = of_video[0]["uri"]
                cuts.append(Cut(f"{len(cuts):06d}", video_id, uri, video["size_bytes"], first, last, of_part))
    return cuts


def _together(rows: Sequence[dict[str, Any]], margin_s: float, last_s: float) -> list[tuple[float, float, list[Still]]]:
    """Return the stretches of one video that show its segments. No two stretches overlap."""
    found: list[tuple[float, float, list[Still]]] = []
    for row in rows:
        until_s = min(row["end_s"], row["start_s"] + _SHOWN_S)
        start_s = max(0.0, row["start_s"] - margin_s)
        # The header of a video may give too short a duration.
        end_s = max(until_s, min(until_s + margin_s, last_s))
        still = Still(row["segment_id"], (row["start_s"] + until_s) / 2, row["track_id"])
        if found and start_s <= found[-1][1]:
            found[-1] = (found[-1][0], max(end_s, found[-1][1]), [*found[-1][2], still])
        else:
            found.append((start_s, end_s, [still]))
    return found


def scene_script(name: str, clip: Clip, scene: Scene) -> str:
    """Return a script that tells the page the times of a clip, and the boxes and keypoints in it, in source pixels.

    A keypoint that was not seen is at -1. It is a script because a page that is opened from disk can't load data.
    """
    tracks = []
    for track_id, views in scene.tracks.items():
        points = np.where(views.keypoints[..., 2:] >= SEEN_SCORE, views.keypoints[..., :2], -1.0)
        numbers = np.concatenate([views.xyxy, points.reshape(len(points), -1)], axis=1)
        packed = np.round(numbers).clip(-32768, 32767).astype("<i2")
        tracks.append(
            {
                "id": track_id,
                "times": [round(float(t), 3) for t in views.pts_s],
                "stride": packed.shape[1],
                "numbers": base64.b64encode(packed.tobytes()).decode(),
                **_foretold(scene, track_id, clip),
            }
        )
    content = json.dumps({"start": clip.start_s, "end": clip.end_s, "tracks": tracks}, separators=(",", ":"))
    return f"actionlakeScene({json.dumps(name)}, {content});\n"


def _foretold(scene: Scene, track_id: int, clip: Clip) -> dict[str, Any]:
    """Return the forecasts for one person in a clip: for each step x, y, sx, sy in pixels, and rho in thousandths."""
    told = scene.forecasts.get(track_id)
    if told is None:
        return {}
    shown = (told.made_at_s >= clip.start_s - SHOWN_S) & (told.made_at_s < clip.end_s)
    numbers = np.concatenate([told.mean, told.deviation, 1000 * told.rho[..., None]], axis=2)[shown]
    packed = np.round(numbers).clip(-32768, 32767).astype("<i2")
    return {
        "foretold": {
            "made": np.round(told.made_at_s[shown], 3).tolist(),
            "horizons": np.round(told.horizon_s, 3).tolist(),
            "numbers": base64.b64encode(packed.tobytes()).decode(),
        }
    }


def _write_stills(
    clip: Clip, scene: Scene, stills: Sequence[Still], folder: Path, source: tuple[int, int]
) -> list[Path]:
    """Write a thumbnail of each segment that shows its person. The clip is decoded once."""
    written: list[Path] = []
    waiting = sorted(stills, key=lambda still: still.time_s)
    if not waiting:
        return written
    with av.open(str(clip.path)) as container:
        image = None
        for frame in container.decode(video=0):
            image = frame
            while waiting and clip.start_s + (frame.time or 0.0) >= waiting[0].time_s:
                written.append(_write_still(frame, waiting.pop(0), scene, folder, source))
        while waiting and image is not None:
            written.append(_write_still(image, waiting.pop(0), scene, folder, source))
    return written


def _write_still(frame: av.VideoFrame, still: Still, scene: Scene, folder: Path, source: tuple[int, int]) -> Path:
    image = frame.to_ndarray(format="bgr24")
    height, width = image.shape[:2]
    views = scene.tracks.get(still.track_id) if still.track_id is not None else None
    found = views.at(still.time_s) if views is not None else None
    left, top, right, bottom = np.array([0, 0, width, height], np.float64)
    if found is not None:
        # Both axes have their own scale: the pixels of a copied clip may not be square.
        left, top, right, bottom = found[0].astype(np.float64) * np.tile([width / source[0], height / source[1]], 2)
        middle_x, middle_y = (left + right) / 2, (top + bottom) / 2
        half_h = max(bottom - top, (right - left) * _THUMB_SIZE[1] / _THUMB_SIZE[0], 16.0) * _AROUND / 2
        half_h = min(half_h, height / 2, width * _THUMB_SIZE[1] / _THUMB_SIZE[0] / 2)
        half_w = half_h * _THUMB_SIZE[0] / _THUMB_SIZE[1]
        middle_x, middle_y = np.clip(middle_x, half_w, width - half_w), np.clip(middle_y, half_h, height - half_h)
        left, top, right, bottom = middle_x - half_w, middle_y - half_h, middle_x + half_w, middle_y + half_h
    part = image[int(top) : max(int(top) + 2, int(bottom)), int(left) : max(int(left) + 2, int(right))]
    path = folder / f"{still.segment_id}.jpg"
    small = cv2.resize(part, _THUMB_SIZE, interpolation=cv2.INTER_AREA)
    path.write_bytes(cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 80])[1].tobytes())
    return path
