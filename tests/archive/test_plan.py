from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.archive.plan import OPEN_END, plan_shards, plan_video
from pipeline.archive.probe import Probe
from pipeline.archive.refs import VideoRef
from pipeline.errors import VideoError


def probe(duration_s: float, keyframes_s: list[float]) -> Probe:
    return Probe("h264", 320, 240, 0, 30.0, False, duration_s, Fraction(1, 1000), 0, np.array(keyframes_s))


keyframe_lists = st.lists(st.floats(0, 500), max_size=60).map(sorted)
rates = st.sampled_from([Fraction(15), Fraction(30000, 1001), Fraction(1, 2), Fraction(7)])


@given(keyframe_lists, st.floats(0.1, 600), rates, st.floats(0.2, 100))
def test_chunks_share_out_the_whole_grid_and_start_on_keyframes(
    keyframes: list[float], duration_s: float, rate: Fraction, chunk_s: float
) -> None:
    chunks = plan_video(VideoRef("v", 1, ""), probe(duration_s, keyframes), rate, chunk_s).chunks
    assert chunks[0].first_step == 0
    assert chunks[-1].end_step == OPEN_END
    assert [chunk.index for chunk in chunks] == list(range(len(chunks)))
    for left, right in itertools.pairwise(chunks):
        assert left.end_step == right.first_step > left.first_step
    grid_starts = {-((-Fraction(t) * rate) // 1) for t in keyframes}
    assert all(chunk.first_step in grid_starts for chunk in chunks[1:])


@given(st.floats(0, 50), st.floats(0.5, 40), keyframe_lists, st.floats(0.5, 20))
def test_a_span_is_cut_exactly_at_its_ends(
    start_s: float, length_s: float, keyframes: list[float], chunk_s: float
) -> None:
    ref = VideoRef("v", 1, "", start_s, start_s + length_s)
    chunks = plan_video(ref, probe(600.0, keyframes), Fraction(15), chunk_s).chunks
    assert chunks[0].first_step == -((-Fraction(start_s) * 15) // 1)
    assert chunks[-1].end_step == -((-Fraction(start_s + length_s) * 15) // 1)


def test_without_an_index_there_is_one_chunk() -> None:
    assert len(plan_video(VideoRef("v", 1, ""), probe(3600.0, []), Fraction(15), 60.0).chunks) == 1


def test_a_span_past_the_end_is_a_failure_not_a_crash() -> None:
    planned = plan_video(VideoRef("v.mp4", 1, "", 30.0, 40.0), probe(20.0, [0.0]), Fraction(15), 60.0)
    assert planned.chunks == ()
    assert planned.failure is not None
    assert "starts at 30 s, past the end at 20 s" in str(planned.failure)


@given(st.lists(st.floats(0.1, 4000), max_size=50), st.integers(0, 50))
def test_a_plan_taken_up_after_any_shard_is_the_same_plan(durations: list[float], done: int) -> None:
    videos = [(VideoRef(f"v{i:03d}", 1, ""), probe(s, [])) for i, s in enumerate(durations)]
    whole = list(plan_shards(videos, Fraction(15), 60.0, 7, 2.0))
    kept = whole[:done]
    rest = list(plan_shards(videos[sum(map(len, kept)) :], Fraction(15), 60.0, 7, 2.0))
    assert kept + rest == whole
    assert [video.ref for shard in whole for video in shard] == [ref for ref, _ in videos]


@pytest.mark.parametrize(
    ("minutes", "n_videos", "chunk_s"), [(1, 1, 5), (10, 1, 10), (1, 10, 10), (60, 1, 30), (1, 60, 30), (0.5, 200, 30)]
)
def test_the_less_there_is_to_do_the_shorter_are_the_chunks(minutes: float, n_videos: int, chunk_s: float) -> None:
    """A keyframe every second; a video that can't be read and one whose span is past its end stay what they are."""
    known = probe(60.0 * minutes, [float(second) for second in range(int(60 * minutes))])
    videos = [(VideoRef(f"v{i}", 1, ""), known) for i in range(n_videos)]
    bad = [
        (VideoRef("bad", 1, ""), VideoError("corrupt", "bad: no video")),
        (VideoRef("past", 1, "", 1e6, 2e6), known),
    ]
    (shard,) = plan_shards([*videos, *bad], Fraction(15), 30.0, 1000, 1000.0)
    lengths = {chunk.duration_s for video in shard[:-2] for chunk in video.chunks[:-1]}
    assert lengths == ({chunk_s} if 60 * minutes > chunk_s else set())
    assert [video.failure.kind for video in shard[-2:] if video.failure] == ["corrupt", "truncated"]
    assert shard[-1].probe is known


@given(st.floats(1, 60), st.sampled_from([15.0, 8.3, 2.0]), rates, st.booleans())
def test_the_chunks_of_a_short_video_are_halved_where_a_decoder_can_start(
    duration_s: float, gop_s: float, rate: Fraction, has_index: bool
) -> None:
    keyframes = list(np.arange(0, duration_s, gop_s)) if has_index else []
    known = probe(duration_s, keyframes)
    ((video,),) = plan_shards([(VideoRef("v", 1, ""), known)], rate, 60.0, 1000, 1000.0)
    whole = plan_video(VideoRef("v", 1, ""), known, rate, 5.0).chunks
    assert video.chunks[0].first_step == 0
    assert video.chunks[-1].end_step == OPEN_END
    assert [chunk.index for chunk in video.chunks] == list(range(len(video.chunks)))
    for left, right in itertools.pairwise(video.chunks):
        assert left.end_step == right.first_step > left.first_step
    assert sum(chunk.duration_s for chunk in video.chunks) == pytest.approx(duration_s)
    n_long = sum(chunk.duration_s > 2.0 for chunk in whole)
    is_halved = has_index and len(whole) < 8
    assert len(video.chunks) == len(whole) + (n_long if is_halved else 0)
