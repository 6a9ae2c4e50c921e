from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.archive.plan import OPEN_END, Chunk, plan_video
from pipeline.archive.probe import probe_video
from pipeline.archive.refs import VideoRef
from pipeline.archive.sources import list_videos
from pipeline.video.decode import FrameBatch, decode_chunk, scaled_size
from pipeline.video.frames import DecodeReport
from pipeline.video.sampling import MAX_HOLD_S, Grid
from tests.synthetic import RECIPES, Recipe, make_video, numbered_frame, read_number

H264 = RECIPES[0]
BFRAMES = RECIPES[1]

Sampled = list[tuple[int, float, int, bytes]]
"""For every step: `(step, PTS in seconds, number in the picture, the pixels)`."""


def sample(
    path: Path,
    rate: Fraction,
    chunk_s: float,
    span: tuple[float | None, float | None] = (None, None),
    px: int = 320,
    sampling: str = "exact",
) -> tuple[Sampled, list[DecodeReport]]:
    """Decode a file chunk by chunk, as a job does, and lay the frames out on the grid."""
    ref = list_videos([str(path)])[0]
    ref = VideoRef(ref.uri, ref.size_bytes, ref.modified, *span)
    probe = probe_video(ref)
    steps: Sampled = []
    reports = []
    for chunk in plan_video(ref, probe, rate, chunk_s).chunks:
        reports.append(DecodeReport())
        for batch in decode_chunk(ref.uri, probe, chunk, rate, px, 7, reports[-1], sampling=sampling):
            for image, pts_s, first, count in zip(batch.images, batch.pts_s, batch.steps, batch.n_steps, strict=True):
                for step in range(first, first + count):
                    steps.append((step, float(pts_s), read_number(image), image.tobytes()))
    return steps, reports


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(
    recipe=st.sampled_from(RECIPES),
    rate=st.sampled_from([Fraction(30), Fraction(7), Fraction(2)]),
    chunk_s=st.floats(0.1, 1.2),
)
def test_the_frame_sampled_next_is_known_at_the_end_of_every_chunk(
    numbered: Path, recipe: Recipe, rate: Fraction, chunk_s: float
) -> None:
    path = numbered / recipe.name
    whole, _ = sample(path, rate, 86_400.0)
    numbers = list(dict.fromkeys(number for _, _, number, _ in whole))
    pixels = {number: image for _, _, number, image in whole}
    ref = list_videos([str(path)])[0]
    probe = probe_video(ref)
    chunks = plan_video(ref, probe, rate, chunk_s).chunks
    for chunk in chunks:
        plain, ahead = DecodeReport(), DecodeReport()
        expected = list(decode_chunk(ref.uri, probe, chunk, rate, 320, 7, plain))
        found = list(decode_chunk(ref.uri, probe, chunk, rate, 320, 7, ahead, look_ahead=True))
        assert [b.images.tobytes() for b in found] == [b.images.tobytes() for b in expected]
        assert (ahead.end_s, ahead.reached_eof) == (plain.end_s, plain.reached_eof)
        if not found:
            continue
        last = read_number(found[-1].images[-1])
        following = numbers[numbers.index(last) + 1 :]
        assert (ahead.after is not None) == bool(following)
        if ahead.after is not None:
            assert ahead.after.tobytes() == pixels[following[0]]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(
    recipe=st.sampled_from(RECIPES),
    rate=st.sampled_from([Fraction(30), Fraction(15), Fraction(7), Fraction(2)]),
    chunk_s=st.floats(0.1, 1.2),
)
def test_fast_sampling_leaves_out_frames_but_no_step_whatever_the_chunking(
    numbered: Path, recipe: Recipe, rate: Fraction, chunk_s: float
) -> None:
    path = numbered / recipe.name
    exact, _ = sample(path, rate, 86_400.0)
    whole, _ = sample(path, rate, 86_400.0, sampling="fast")
    chunked, _ = sample(path, rate, chunk_s, sampling="fast")
    assert chunked == whole
    shown = {number: pts_s for _, pts_s, number, _ in sample(path, Fraction(120), 86_400.0)[0]}
    assert [step for step, _, _, _ in whole] == [step for step, _, _, _ in exact][: len(whole)]
    assert len(exact) - len(whole) <= 1, "the very last frame may be one of those"
    for (_, pts_s, number, _), (_, _, latest, _) in zip(whole, exact, strict=False):
        assert 0 <= latest - number <= 3
        assert pts_s == shown[number]


@pytest.mark.parametrize(("rate", "n_left"), [(Fraction(15), 35), (Fraction(7), 20)])
def test_fast_sampling_decodes_what_is_needed(numbered: Path, rate: Fraction, n_left: int) -> None:
    """Of 60 frames those that others need; where every fourth is enough, none but those between the B-frames."""
    _, (report,) = sample(numbered / BFRAMES.name, rate, 86_400.0, sampling="fast")
    assert report.n_decoded == n_left


def true_pts(path: Path) -> list[Fraction]:
    """Return the presentation times of all frames, from one plain pass over the file."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        pts = [frame.pts for frame in container.decode(stream)]
        return [(value - pts[0]) * stream.time_base for value in pts]


def shown_at(times: list[Fraction], step: int, rate: Fraction) -> int:
    """Return the number of the frame with the largest time not after a step: the definition, spelt out."""
    return max(number for number, time in enumerate(times) if time <= step / rate)


@pytest.mark.parametrize("rate", [Fraction(30), Fraction(15), Fraction(7), Fraction(1, 2)])
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_every_step_shows_the_frame_with_the_largest_pts_not_after_it(
    numbered: Path, recipe: Recipe, rate: Fraction
) -> None:
    path = numbered / recipe.name
    times = true_pts(path)
    steps, _ = sample(path, rate, 1e9)
    assert [step for step, *_ in steps] == list(range(-(-2 * rate.numerator // rate.denominator)))
    assert [number for _, _, number, _ in steps] == [shown_at(times, step, rate) for step, *_ in steps]
    assert [pts_s for _, pts_s, _, _ in steps] == [float(times[shown_at(times, step, rate)]) for step, *_ in steps]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_chunked_equals_unchunked(numbered: Path, recipe: Recipe) -> None:
    """Taking the rule about frames before an open keyframe out of `_decode` fails this for the open GOPs."""
    path = numbered / recipe.name

    @settings(max_examples=8, deadline=None, derandomize=True)
    @given(
        chunk_s=st.floats(0.05, 2.5),
        rate=st.sampled_from([Fraction(30), Fraction(25), Fraction(10), Fraction(30000, 1001)]),
    )
    def check(chunk_s: float, rate: Fraction) -> None:
        assert sample(path, rate, chunk_s)[0] == sample(path, rate, 1e9)[0]

    check()
    if not recipe.name.endswith(".ts"):
        assert len(sample(path, Fraction(15), 0.1)[1]) >= 4


@given(seed=st.integers(0, 10_000), chunk_s=st.floats(0.05, 3.0), bframes=st.booleans())
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
def test_variable_frame_rate(tmp_path: Path, seed: int, chunk_s: float, bframes: bool) -> None:
    rng = np.random.default_rng(seed)
    pts = (np.cumsum(rng.integers(1, 200, 40)) - 5).tolist()
    path = make_video(tmp_path / "v.mp4", BFRAMES if bframes else H264, 40, pts=pts, time_base=Fraction(1, 1000))
    times = true_pts(path)
    rate = Fraction(15)
    steps, _ = sample(path, rate, chunk_s)
    assert [number for _, _, number, _ in steps] == [shown_at(times, step, rate) for step, *_ in steps]
    assert [step for step, *_ in steps] == list(range(len(steps)))
    assert steps == sample(path, rate, 1e9)[0]


def test_negative_start_times(tmp_path: Path) -> None:
    path = make_video(tmp_path / "n.mkv", BFRAMES, pts=[i * 33 - 500 for i in range(60)], time_base=Fraction(1, 1000))
    steps, _ = sample(path, Fraction(10), 1e9)
    assert [number for _, _, number, _ in steps][:4] == [0, 3, 6, 9]
    assert steps == sample(path, Fraction(10), 0.4)[0]


@pytest.mark.parametrize("name", ["h264.mp4", "vp9.webm", "mjpeg.avi", "h264.ts", "hevc.mp4"])
def test_one_frame_only(tmp_path: Path, name: str) -> None:
    recipe = next(recipe for recipe in RECIPES if recipe.name == name)
    steps, _ = sample(make_video(tmp_path / name, recipe, n_frames=1), Fraction(15), 60.0)
    assert [(step, number) for step, _, number, _ in steps] == [(0, 0)]


def test_a_slow_video_is_decoded_once_per_frame_and_shown_for_many_steps(tmp_path: Path) -> None:
    path = make_video(tmp_path / "slow.mp4", H264, n_frames=4, fps=2)
    ref = list_videos([str(path)])[0]
    batches = list(decode_chunk(ref.uri, probe_video(ref), Chunk(0, 0, OPEN_END, 2.0), Fraction(15), 320, 100))
    assert np.concatenate([batch.steps for batch in batches]).tolist() == [0, 8, 15, 23]
    assert np.concatenate([batch.n_steps for batch in batches]).tolist() == [8, 7, 8, 7]


def test_a_frame_is_not_held_across_a_long_gap(tmp_path: Path) -> None:
    pts = [0, 40, 80, 100_000, 100_040]
    path = make_video(tmp_path / "gap.mp4", H264, 5, pts=pts, time_base=Fraction(1, 1000))
    steps, _ = sample(path, Fraction(10), 1e9)
    numbers = {step: number for step, _, number, _ in steps}
    assert set(numbers) == set(range(int((0.08 + MAX_HOLD_S) * 10) + 1)) | {1000}
    assert numbers[1000] == 3


@given(start_s=st.floats(0, 1.5), length_s=st.floats(0.1, 1.0))
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
def test_a_span_holds_the_same_frames_as_the_whole(numbered: Path, start_s: float, length_s: float) -> None:
    path = numbered / "h264-bframes.mp4"
    whole, _ = sample(path, Fraction(15), 1e9)
    span, _ = sample(path, Fraction(15), 1e9, (start_s, start_s + length_s))
    assert span == [row for row in whole if start_s <= row[0] / 15 < start_s + length_s]


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_rotation_sets_the_picture_upright(tmp_path: Path, turn: int) -> None:
    path = make_video(tmp_path / "r.mp4", H264, n_frames=3, rotation_deg=turn)
    ref = list_videos([str(path)])[0]
    batch = next(decode_chunk(ref.uri, probe_video(ref), Chunk(0, 0, OPEN_END, 1.0), Fraction(30), 320, 8))
    expected = np.rot90(numbered_frame(2), turn // 90)
    assert batch.images.flags.c_contiguous, "OpenCV refuses others as outputs"
    assert batch.images[2].shape == expected.shape
    assert np.abs(batch.images[2].astype(int) - expected).mean() < 12


def test_frames_that_opencv_would_refuse_make_no_batch() -> None:
    turned = np.rot90(np.zeros((2, 4, 6, 3), np.uint8), axes=(1, 2))
    one = np.zeros(2, np.int64)
    with pytest.raises(ValueError, match="images is not C-contiguous"):
        FrameBatch(turned, np.zeros(2), one, one.astype(np.int32))
    with pytest.raises(ValueError, match="after is not C-contiguous"):
        FrameBatch(np.ascontiguousarray(turned), np.zeros(2), one, one.astype(np.int32), after=turned[0])


def test_frames_shrink_but_keep_their_shape(tmp_path: Path) -> None:
    assert scaled_size(1920, 1080, 320) == (320, 180)
    assert scaled_size(1080, 1920, 320) == (180, 320)
    assert scaled_size(160, 90, 320) == (160, 90)
    path = make_video(tmp_path / "wide.mp4", H264, n_frames=2, size=(640, 160))
    ref = list_videos([str(path)])[0]
    batch = next(decode_chunk(ref.uri, probe_video(ref), Chunk(0, 0, OPEN_END, 1.0), Fraction(30), 320, 8))
    assert batch.images.shape == (2, 80, 320, 3)
    assert [read_number(image) for image in batch.images] == [0, 1]


def packet_positions(path: Path) -> list[int]:
    with av.open(str(path)) as container:
        return [packet.pos for packet in container.demux(container.streams.video[0]) if packet.size]


@pytest.mark.parametrize("name", ["h264-bframes.mp4", "hevc.mp4", "vp9.webm", "h264.ts"])
def test_damage_in_the_middle_costs_only_what_is_damaged(numbered: Path, tmp_path: Path, name: str) -> None:
    content = bytearray((numbered / name).read_bytes())
    positions = packet_positions(numbered / name)
    damaged = slice(positions[26] + 16, positions[29])
    content[damaged] = np.random.default_rng(1).bytes(damaged.stop - damaged.start)
    (tmp_path / name).write_bytes(content)
    steps, reports = sample(tmp_path / name, Fraction(30), 1e9)
    if not name.endswith(".ts"):
        # Of a transport stream the demuxer drops what it can't read, without a word.
        assert reports[0].n_errors > 0
        assert reports[0].first_error
    intact = sample(numbered / name, Fraction(30), 1e9)[0]
    assert steps[:20] == intact[:20]
    if name != "vp9.webm":
        # Matroska finds its next cluster again; this small file has only one.
        assert steps[-10:] == intact[-10:]


def test_a_file_cut_short_gives_what_is_there(numbered: Path, tmp_path: Path) -> None:
    whole = (numbered / "mpeg4.avi").read_bytes()
    (tmp_path / "short.avi").write_bytes(whole[: packet_positions(numbered / "mpeg4.avi")[40]])
    steps, reports = sample(tmp_path / "short.avi", Fraction(30), 1e9)
    assert 35 <= len(steps) <= 40
    assert reports[-1].reached_eof
    assert [number for _, _, number, _ in steps] == list(range(len(steps)))


def test_a_last_frame_has_an_end_whatever_the_header_says(numbered: Path, tmp_path: Path) -> None:
    """A damaged header may tell of more than a second for each frame, and of one frame in days as their rate."""
    content = bytearray((numbered / H264.name).read_bytes())
    at = content.index(b"stts") + 16
    assert int.from_bytes(content[at : at + 4], "big") == 512
    content[at : at + 4] = (16_000).to_bytes(4, "big")
    (tmp_path / "slow.mp4").write_bytes(content)
    (ref,) = list_videos([str(tmp_path / "slow.mp4")])
    probe = replace(probe_video(ref), fps=4e-6)
    report = DecodeReport()
    batches = list(decode_chunk(ref.uri, probe, Chunk(0, 0, OPEN_END, 2.0), Fraction(30), 320, 100, report))
    assert report.n_errors == 0
    assert report.end_s == pytest.approx(batches[-1].pts_s[-1] + 1.0)


@given(
    pts=st.integers(-(10**12), 10**12),
    origin=st.integers(-(10**9), 10**9),
    rate=st.fractions(Fraction(1, 100), 120, max_denominator=100_000),
    unit=st.sampled_from([Fraction(1, 90_000), Fraction(1001, 30_000), Fraction(1, 10**9), Fraction(1, 25)]),
)
def test_steps_are_counted_exactly(pts: int, origin: int, rate: Fraction, unit: Fraction) -> None:
    grid = Grid(rate, unit, origin)
    step = grid.first_step(pts)
    assert (step - 1) / rate < (pts - origin) * unit <= step / rate
    assert (grid.pts_at(step) - origin) * unit <= step / rate < (grid.pts_at(step) + 1 - origin) * unit
    assert grid.hold_end(pts) == grid.first_step(pts + int(MAX_HOLD_S / unit))
