from __future__ import annotations

import socket
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.archive.probe import Probe, probe_video
from pipeline.archive.sources import list_videos
from pipeline.errors import VideoError
from tests.synthetic import HEIGHT, RECIPES, WIDTH, make_video

CODECS = {"libx264": "h264", "libx265": "hevc", "libvpx-vp9": "vp9", "libsvtav1": ("av1", "libdav1d")}
H264 = RECIPES[0]


def probe(path: Path) -> Probe:
    return probe_video(list_videos([str(path)])[0])


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_every_format_tells_what_it_is(numbered: Path, recipe) -> None:
    found = probe(numbered / recipe.name)
    assert found.codec in CODECS.get(recipe.codec, recipe.codec)
    assert (found.width, found.height, found.rotation_deg) == (WIDTH, HEIGHT, 0)
    assert found.fps == pytest.approx(30, rel=0.02)
    assert found.duration_s == pytest.approx(2.0, abs=0.05)
    assert not found.vfr
    if recipe.name.endswith(".ts"):
        assert len(found.keyframes_s) == 0
    else:
        assert len(found.keyframes_s) >= 2
        assert np.all(np.diff(found.keyframes_s) > 0)


def test_uneven_frames_are_told_from_even_ones(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pts = np.cumsum(rng.integers(10, 90, 60)).tolist()
    assert probe(make_video(tmp_path / "v.mp4", H264, pts=pts, time_base=Fraction(1, 1000))).vfr
    assert not probe(make_video(tmp_path / "c.mp4", H264)).vfr


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_rotation_is_read_and_the_size_is_upright(tmp_path: Path, turn: int) -> None:
    found = probe(make_video(tmp_path / "r.mp4", H264, n_frames=5, rotation_deg=turn))
    assert found.rotation_deg == turn
    assert (found.width, found.height) == ((WIDTH, HEIGHT) if turn == 180 else (HEIGHT, WIDTH))


def test_pixels_that_are_not_square_widen_the_picture_unless_that_makes_no_sense(tmp_path: Path) -> None:
    """A damaged header may claim a picture wider than any number in a table: then pixels are taken to be square."""
    video = make_video(tmp_path / "wide.mp4", H264, n_frames=5, pixel_aspect=Fraction(4, 3))
    assert (probe(video).width, probe(video).height) == (round(WIDTH * 4 / 3), HEIGHT)
    content = bytearray(video.read_bytes())
    at = content.index(b"pasp") + 4
    content[at : at + 8] = (2**31 - 1).to_bytes(4, "big") + (1).to_bytes(4, "big")
    damaged = tmp_path / "damaged.mp4"
    damaged.write_bytes(content)
    assert (probe(damaged).width, probe(damaged).height) == (WIDTH, HEIGHT)


def write_audio(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.rate, frame.pts = 16000, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def test_what_is_no_video_says_so(tmp_path: Path, numbered: Path) -> None:
    (tmp_path / "text.mp4").write_text("this is no video " * 50)
    (tmp_path / "empty.mp4").touch()
    write_audio(tmp_path / "audio.mp4")
    whole = (numbered / "h264.mp4").read_bytes()
    (tmp_path / "headless.mp4").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "list.csv").write_text("uri\ngone.mp4\n")
    kinds = {}
    for ref in [*list_videos([str(tmp_path / "list.csv")]), *list_videos([str(tmp_path)])]:
        with pytest.raises(VideoError) as caught:
            probe_video(ref)
        assert str(caught.value).startswith(ref.uri)
        kinds[ref.uri.rsplit("/", 1)[1]] = caught.value.kind
    assert kinds == {
        "audio.mp4": "no_video_stream",
        "empty.mp4": "empty",
        "gone.mp4": "missing",
        "headless.mp4": "not_video",
        "text.mp4": "not_video",
    }


def test_a_playlist_posing_as_a_video_opens_nothing_else(tmp_path: Path) -> None:
    """The listener would see a connection. FFmpeg has a rule of its own against this one; the whitelist needs none."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(1.0)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/segment.ts"
        (tmp_path / "list.m3u8").write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{url}\n#EXT-X-ENDLIST\n")
        code = (
            "import sys\n"
            "from pipeline.archive.probe import probe_video\n"
            "from pipeline.archive.sources import list_videos\n"
            "probe_video(list_videos([sys.argv[1]])[0])"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "list.m3u8")], capture_output=True, text=True, check=False
        )
        assert "not a video that can be read" in done.stderr
        with pytest.raises(TimeoutError):
            server.accept()
