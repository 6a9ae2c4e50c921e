"""Clips show the frames that they should, at their times, whether they are copied or encoded anew."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.archive.probe import probe_video
from pipeline.archive.sources import list_videos
from pipeline.errors import VideoError
from pipeline.video.clips import Clip, write_clip
from tests.synthetic import RECIPES, make_video, read_number

SPANS = [(0.0, 1.0), (0.9, 1.53), (1.5, 9.0)]
# Its keyframes only begin to refresh the picture: whoever begins with one of them sees grey at first.
SLOWLY_REFRESHED = "h264-intra-refresh.mp4"


def cut(path: Path, start_s: float, end_s: float, out: Path, **options: object) -> Clip:
    probe = probe_video(list_videos([str(path)])[0])
    return write_clip(str(path), probe, start_s, end_s, out, **options)  # type: ignore[arg-type]


def shown(clip: Clip) -> list[tuple[float, int]]:
    """Return for each frame when it is shown, in seconds of the video, and its number."""
    with av.open(str(clip.path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert not container.streams.audio
        return [
            (frame.time + clip.start_s, read_number(frame.to_ndarray(format="rgb24")))
            for frame in container.decode(stream)
        ]


@pytest.mark.parametrize(
    ("name", "span"),
    [(r.name, span) for r in RECIPES for span in SPANS if r.name != SLOWLY_REFRESHED or span[0] == 0.0],
    ids=str,
)
def test_each_frame_at_its_time(numbered: Path, name: str, span: tuple[float, float], tmp_path: Path) -> None:
    clip = cut(numbered / name, *span, tmp_path / "clip.mp4")
    frames = shown(clip)
    assert all(abs(30 * at_s - number) < 0.1 for at_s, number in frames), frames
    numbers = [number for _, number in frames]
    assert numbers == list(range(numbers[0], numbers[-1] + 1))
    first, last = int(span[0] * 30), min(59, int(np.ceil(span[1] * 30)) - 1)
    assert numbers[0] <= first
    assert numbers[-1] >= last
    if not clip.copied:
        assert (clip.start_s, numbers[0], numbers[-1]) == (span[0], first, last)
        with av.open(str(clip.path)) as container:
            length_s = float(container.streams.video[0].duration * container.streams.video[0].time_base)
        assert length_s == pytest.approx(min(2.0, span[1]) - span[0], abs=0.002)
    assert not list(tmp_path.glob("*.part*"))


def test_packets_are_copied_where_that_is_exact(numbered: Path, tmp_path: Path) -> None:
    clip = cut(numbered / "h264-bframes.mp4", 0.9, 1.53, tmp_path / "clip.mp4")
    assert clip.copied
    assert clip.start_s == pytest.approx(0.8)  # The keyframe before.
    with av.open(str(numbered / "h264-bframes.mp4")) as whole, av.open(str(clip.path)) as part:
        frames = [frame.to_ndarray() for frame in whole.decode(video=0)][24:]
        assert all(np.array_equal(a.to_ndarray(), b) for a, b in zip(part.decode(video=0), frames, strict=False))


def test_a_keyframe_far_before_is_not_copied_from(tmp_path: Path) -> None:
    sparse = next(recipe for recipe in RECIPES if recipe.name == "h264.mp4")
    path = make_video(
        tmp_path / "sparse.mp4", type(sparse)("sparse", "libx264", {"g": "200", "preset": "ultrafast"}), 150
    )
    clip = cut(path, 3.0, 4.0, tmp_path / "clip.mp4")
    assert not clip.copied
    assert [number for _, number in shown(clip)] == list(range(90, 120))


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_a_turned_video_stands_upright(tmp_path: Path, turn: int) -> None:
    path = make_video(tmp_path / "turned.mp4", RECIPES[0], 20, rotation_deg=turn)
    clip = cut(path, 0.2, 0.4, tmp_path / "clip.mp4")
    assert (clip.width, clip.height) == ((96, 160) if turn != 180 else (160, 96))
    with av.open(str(clip.path)) as container:
        frame = next(container.decode(video=0))
        image = np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), -turn // 90))
    assert read_number(image) == 6


def test_uneven_frames_keep_their_times(tmp_path: Path) -> None:
    times = [0, 100, 150, 700, 1500, 1600]
    path = make_video(tmp_path / "uneven.mp4", RECIPES[0], len(times), pts=times, time_base=Fraction(1, 1000))
    clip = cut(path, 0.5, 1.55, tmp_path / "clip.mp4", draw=lambda image, at_s: None)
    assert shown(clip) == [(0.5, 2), (pytest.approx(0.7), 3), (pytest.approx(1.5), 4)]


def test_what_is_drawn_is_in_the_picture(numbered: Path, tmp_path: Path) -> None:
    seen: list[float] = []

    def draw(image: np.ndarray, at_s: float) -> None:
        seen.append(round(at_s * 30))
        image[:20] = (255, 0, 0)

    clip = cut(numbered / "h264.mp4", 0.5, 0.7, tmp_path / "clip.mp4", draw=draw)
    assert seen == list(range(15, 21))
    with av.open(str(clip.path)) as container:
        frame = next(container.decode(video=0)).to_ndarray(format="rgb24")
    assert frame[:16, :, 0].mean() > 200 > 60 > frame[:16, :, 1].mean()


def test_fast_video_is_thinned_out(tmp_path: Path) -> None:
    path = make_video(tmp_path / "fast.avi", RECIPES[12], 240, fps=120)
    numbers = [number for _, number in shown(cut(path, 0.0, 2.0, tmp_path / "clip.mp4"))]
    assert 56 <= len(numbers) <= 62
    assert numbers == sorted(set(numbers))


def test_beyond_the_end_there_is_nothing(numbered: Path, tmp_path: Path) -> None:
    out = tmp_path / "clip.mp4"
    out.write_bytes(b"before")
    with pytest.raises(VideoError, match=r"mpeg4\.avi: no frame of it is shown from 50 to 51 s"):
        cut(numbered / "mpeg4.avi", 50.0, 51.0, out)
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]
    assert out.read_bytes() == b"before"


def test_the_picture_is_even_and_small(tmp_path: Path) -> None:
    path = make_video(tmp_path / "odd.avi", RECIPES[14], 5, size=(1282, 722))
    clip = cut(path, 0.0, 1.0, tmp_path / "clip.mp4")
    assert (clip.width, clip.height) == (640, 360)


@pytest.mark.parametrize("name", ["h264.mp4", "mpeg4.avi"], ids=["copied", "encoded"])
def test_a_place_that_can_not_be_written_is_no_fault_of_the_video(numbered: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="Not a directory"):
        cut(numbered / name, 0.0, 1.0, tmp_path / "file" / "clip.mp4")
