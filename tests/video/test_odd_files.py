"""What real archives hold beside plain files: joined recordings, several tracks, covers, clocks that wander."""

from __future__ import annotations

import itertools
import re
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.archive.container import Clock
from pipeline.archive.plan import plan_video
from pipeline.archive.probe import probe_video
from pipeline.archive.refs import VideoRef
from pipeline.archive.sources import list_videos
from pipeline.config import Config
from pipeline.errors import VideoError
from pipeline.lake.query import open_lake
from pipeline.steps.extract import Extractor
from pipeline.video.decode import decode_chunk
from pipeline.video.frames import DecodeReport
from pipeline.video.timeline import Timeline
from tests.lakes import analyze_here
from tests.synthetic import RECIPES, make_video, numbered_frame, read_number
from tests.variants import CUT_SHORT, VARIANTS, segments_of_one_clock

FPS = 10
N_FRAMES = 40
CONFIG = Config(scope="frame", sample_fps=float(FPS))
FRAMES = [numbered_frame(number, 320, 192) for number in range(N_FRAMES)]


def shown(
    path: Path, span: tuple[float | None, float | None] = (None, None), track: int | None = None
) -> tuple[list[tuple[int, int]], DecodeReport]:
    """Return `(step, number in the picture)` for every step of a span, and the report of the last chunk."""
    (ref,) = list_videos([str(path)])
    ref = VideoRef(ref.uri, ref.size_bytes, ref.modified, *span)
    probe, report, steps = probe_video(ref, track=track), DecodeReport(), []
    for chunk in plan_video(ref, probe, Fraction(FPS), 86_400.0).chunks:
        for batch in decode_chunk(ref.uri, probe, chunk, Fraction(FPS), 320, 16, report):
            for image, first, count in zip(batch.images, batch.steps, batch.n_steps, strict=True):
                steps += [(step, read_number(image)) for step in range(first, first + count)]
    return steps, report


@pytest.mark.parametrize(
    "name", ["joined-ts", "joined-mpg", "joined-h264", "joined-mkv", "size-changes-ts", "ts-wraps"]
)
def test_the_timeline_goes_on_where_clocks_start_anew(name: str, tmp_path: Path) -> None:
    """Without that everything behind the join is lost; and a span behind it is looked for on the wrong clock."""
    path = VARIANTS[name](tmp_path, FRAMES, FPS)
    steps, report = shown(path)
    assert steps == [(number, number) for number in range(N_FRAMES)]
    assert (report.n_errors, report.n_join_errors) == (0, 0)
    assert report.end_s == pytest.approx(N_FRAMES / FPS)
    for start, end in ((5, 12), (15, 30), (25, 33)):
        assert shown(path, (start / FPS, end / FPS))[0] == steps[start:end]


def test_a_joined_recording_has_the_length_of_both_and_no_failure(tmp_path: Path) -> None:
    path = VARIANTS["joined-ts"](tmp_path, FRAMES, FPS)
    analyze_here([str(path)], tmp_path / "lake", CONFIG, [], Extractor(CONFIG))
    (row,) = open_lake(str(tmp_path / "lake")).table("videos").to_pylist()
    assert (row["status"], row["duration_s"], row["covered_s"]) == ("ok", pytest.approx(4.0), pytest.approx(4.0))


def test_segments_whose_clock_goes_on_are_whole_when_joined(tmp_path: Path) -> None:
    """FFmpeg marks a packet where continuity counters start anew; one that is lost elsewhere still counts."""
    path = segments_of_one_clock(tmp_path, FRAMES, FPS)
    steps, report = shown(path)
    assert steps == [(number, number) for number in range(N_FRAMES)]
    assert (report.n_errors, report.n_join_errors, report.first_error) == (0, 0, "")
    content = (tmp_path / "whole.ts").read_bytes()
    with av.open(str(tmp_path / "whole.ts")) as container:
        at = [packet.pos for packet in container.demux(video=0)][6]
    path.write_bytes(content[:at] + content[at + 188 :])
    assert shown(path)[1].n_errors == 1


@pytest.mark.parametrize("name", CUT_SHORT)
def test_what_ffmpeg_does_not_read_behind_a_join_is_told(name: str, tmp_path: Path) -> None:
    path = CUT_SHORT[name](tmp_path, FRAMES, FPS)
    analyze_here([str(path)], tmp_path / "lake", CONFIG, [], Extractor(CONFIG))
    lake = open_lake(str(tmp_path / "lake"))
    (row,), (failure,) = lake.table("videos").to_pylist(), lake.table("failures").to_pylist()
    assert (row["status"], row["n_frames_sampled"], failure["kind"]) == ("partial", N_FRAMES // 2, "discontinuity")
    at = int(re.search(r"begins at byte (\d+) can't be read on; split the file there", failure["message"])[1])
    (tmp_path / f"second{path.suffix}").write_bytes(path.read_bytes()[at:])
    assert [number for _, number in shown(tmp_path / f"second{path.suffix}")[0]] == list(range(N_FRAMES // 2, N_FRAMES))


def test_a_hole_at_a_join_is_told_as_that(tmp_path: Path) -> None:
    """The second recording begins in the midst of a group of pictures, whose frames can't be decoded."""
    whole = make_video(tmp_path / "a.ts", next(r for r in RECIPES if r.name == "h264.ts"), N_FRAMES, FPS)
    with av.open(str(whole)) as container:
        keys = [packet.pos for packet in container.demux(video=0) if packet.is_keyframe]
    content = whole.read_bytes()
    cut = (keys[0] + (keys[1] - keys[0]) // 2) // 188 * 188
    joined = tmp_path / "joined.ts"
    joined.write_bytes(content + content[cut:])
    analyze_here([str(joined)], tmp_path / "lake", CONFIG, [], Extractor(CONFIG))
    lake = open_lake(str(tmp_path / "lake"))
    (row,) = lake.table("videos").to_pylist()
    assert row["covered_s"] > 6.0, "both recordings are seen"
    assert lake.table("failures")["kind"].to_pylist() in ([], ["discontinuity"])


@pytest.mark.parametrize(
    ("clock", "times", "joins"),
    [
        ("running", [0, 10, 20, 5, 30, 40], []),
        ("running", [0, 10, 20, 5000, 5010], []),
        ("broadcast", [0, 10, 20, 5000, 30, 40], []),
        ("broadcast", [0, 10, 20, 5000, 5010], [3]),
        ("running", [500, 510, 520, 0, 10, 20], [3]),
        ("tables", [500, 510, 520, 0, 10, 20], []),
    ],
)
def test_what_is_a_join_and_what_a_hiccup_a_stray_packet_or_a_pause(
    clock: Clock, times: list[int], joins: list[int]
) -> None:
    """In hundredths of a second: a step back by 0.15, a pause of 50, a packet with another time, recordings."""
    packets = []
    for time in times:
        packet = av.Packet(1)
        packet.pts = packet.dts = time
        packets.append(packet)
    placed = list(Timeline(clock, 0.01, 10).place(packets))
    assert [number for number, each in enumerate(placed) if each.joined] == joins
    if joins:
        assert [each.packet.dts - placed[0].packet.dts for each in placed] == [10 * n for n in range(len(times))]


def test_the_largest_track_is_taken_unless_another_is_asked_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = VARIANTS["two-tracks"](tmp_path, FRAMES[:6], FPS)
    assert [number for _, number in shown(path)[0]] == list(range(6))
    assert "has 2 video tracks; track 1 is taken" in caplog.text
    (ref,) = list_videos([str(path)])
    assert (probe_video(ref, track=0).width, probe_video(ref, track=1).width) == (64, 320)
    with pytest.raises(VideoError, match="has no video track 2; it has 2, counted from 0"):
        probe_video(ref, track=2)


def test_a_cover_picture_is_told_as_one(tmp_path: Path) -> None:
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=44_100)
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 320, 192, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        frame = av.VideoFrame.from_ndarray(FRAMES[0], format="rgb24")
        container.mux(cover.encode(frame))
        container.mux(cover.encode(None))
        silence = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), format="fltp", layout="stereo")
        silence.rate = 44_100
        container.mux(sound.encode(silence))
        container.mux(sound.encode(None))
    with pytest.raises(VideoError, match="holds audio and a cover picture but no video") as caught:
        probe_video(list_videos([str(path)])[0])
    assert caught.value.kind == "no_video_stream"


def test_no_more_is_covered_than_a_file_of_uneven_rate_lasts(tmp_path: Path) -> None:
    """As of `setpts=N/(15+10*sin(N/7))/TB`: its header tells less than its last frame's time."""
    pts = [round(90_000 * number / (15 + 10 * np.sin(number / 7))) for number in range(90)]
    rising = list(itertools.accumulate(pts, lambda last, time: max(last + 1, time)))
    path = make_video(tmp_path / "uneven.mp4", RECIPES[0], 90, pts=rising, time_base=Fraction(1, 90_000))
    analyze_here([str(path)], tmp_path / "lake", CONFIG, [], Extractor(CONFIG))
    (row,) = open_lake(str(tmp_path / "lake")).table("videos").to_pylist()
    assert row["status"] == "ok"
    assert row["covered_s"] <= row["duration_s"]
    assert row["covered_s"] > 0.95 * rising[-1] / 90_000


def test_a_file_that_is_still_being_written_is_taken_as_far_as_it_goes_and_again_when_it_has_grown(
    tmp_path: Path,
) -> None:
    recipe = next(r for r in RECIPES if r.name == "h264-fragmented.mp4")
    content = make_video(tmp_path / "whole.mp4", recipe, N_FRAMES, FPS).read_bytes()
    fragments = [at - 4 for at in range(len(content)) if content[at : at + 4] == b"moof"]
    growing, extractor = tmp_path / "growing.mp4", Extractor(CONFIG)
    seen = []
    for run, end in enumerate((fragments[2], len(content))):
        growing.write_bytes(content[:end])
        analyze_here([str(growing)], tmp_path / f"lake{run}", CONFIG, [], extractor)
        (row,) = open_lake(str(tmp_path / f"lake{run}")).table("videos").to_pylist()
        assert row["status"] == "ok"
        seen.append((row["video_id"], row["n_frames_sampled"]))
    assert seen[0][0] != seen[1][0], "the next run takes it as another video"
    assert (seen[0][1], seen[1][1]) == (24, N_FRAMES)


def test_an_mp4_without_its_index_says_so(numbered: Path, tmp_path: Path) -> None:
    content = (numbered / "h264.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[: content.index(b"moov") - 4])
    with pytest.raises(VideoError, match="an MP4 without its index") as caught:
        probe_video(list_videos([str(tmp_path / "cut.mp4")])[0])
    assert caught.value.kind == "not_video"
