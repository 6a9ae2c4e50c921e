"""Numbers of frames, and names of files: what all formats share."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.report.exports.found import Segment, Video
from pipeline.report.exports.names import cleaned, lanes, one_line, paths_in_one_folder, paths_like_videos


def video(duration_s: float | None, fps: float = 10.0) -> Video:
    return Video("id", "/v/a.mp4", "/v/a.mp4", None, duration_s, 640, 480, fps, None)


@pytest.mark.parametrize(
    ("start_s", "end_s", "frames"),
    [
        (0.0, 1.0, (0, 10)),
        (0.25, 0.75, (3, 8)),  # halves go up on both sides
        (0.24, 0.76, (2, 8)),
        (1.0, 1.0, (10, 11)),
        (3.9, 99.0, (39, 40)),
        (4.0, 4.0, (39, 40)),
    ],
)
def test_a_segment_has_at_least_one_frame_of_those_that_there_are(
    start_s: float, end_s: float, frames: tuple[int, int]
) -> None:
    assert video(4.0).frames_of(Segment("id", "/v/a.mp4", "x", start_s, end_s, 1.0, None, None)) == frames


def test_without_a_length_any_frame_may_be() -> None:
    segment = Segment("id", "/v/a.mp4", "x", 4.0, 4.0, 1.0, None, None)
    assert video(None).n_frames is None
    assert video(None).frames_of(segment) == (40, 41)
    assert video(10.0, 29.97).n_frames == 300


def test_files_lie_as_the_videos_do_and_never_over_each_other() -> None:
    uris = ["/b/x/a.mp4", "s3://b/x/a.mp4", "/b/x/A.mp4", "/b/y/c\\d.mp4", "/b/y/c_d.mp4", f"/b/y/{'e' * 300}.mp4"]
    for paths in (paths_like_videos(Path("out"), uris, ".xml"), paths_in_one_folder(Path("out"), uris, ".eaf")):
        assert list(paths) == uris
        assert len({str(path).casefold() for path in paths.values()}) == len(uris)
        assert all(len(path.name.encode()) <= 255 and path.is_relative_to("out") for path in paths.values())
    assert paths_like_videos(Path("out"), ["/b/x/a.mp4", "/b/y/a.mp4"], ".xml") == {
        "/b/x/a.mp4": Path("out/x/a.mp4.xml"),
        "/b/y/a.mp4": Path("out/y/a.mp4.xml"),
    }
    assert paths_in_one_folder(Path("out"), ["/b/x/a.mp4", "/b/y/b.mp4"], ".eaf")["/b/y/b.mp4"] == Path("out/b.eaf")


def test_one_video_and_none() -> None:
    assert paths_like_videos(Path("out"), ["a.mp4"], ".vtt") == {"a.mp4": Path("out/a.mp4.vtt")}
    assert paths_in_one_folder(Path("out"), [], ".eaf") == {}


def test_lanes() -> None:
    assert lanes([(0, 2), (1, 3), (2, 4), (2, 2), (3, 5)]) == [0, 1, 0, 2, 1]
    assert lanes([]) == []


def test_texts() -> None:
    assert cleaned("a\x00b\tc\nd\ufffe\U0001f3c3") == "a\ufffdb\tc\nd\ufffd\U0001f3c3"
    assert one_line(" a\x1b\n b ") == "a\ufffd b"
