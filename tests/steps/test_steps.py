"""The steps from chunk to rows, without Ray: what they write must not depend on how the work was cut."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.archive.plan import plan_video
from pipeline.archive.probe import probe_video
from pipeline.archive.sources import list_videos
from pipeline.config import FRAME_INPUTS, PERSON_INPUTS, Config
from pipeline.engine.models import choose_models
from pipeline.lake.query import open_lake
from pipeline.steps import decode
from pipeline.steps.decode import decode_pieces, tasks_of
from pipeline.steps.extract import Extractor
from pipeline.vision.network import Image
from pipeline.vision.views import changed_frames
from tests.lakes import analyze_here, assert_same_whatever_the_cut, rows
from tests.synthetic import RECIPES, make_video


@pytest.fixture(scope="module")
def person_config(person_weights: Path) -> Config:
    inputs = tuple(name for name in (*FRAME_INPUTS, *PERSON_INPUTS) if name != "pose")
    return Config(scope="both", inputs=inputs, detector=str(person_weights), sample_fps=7.0, min_track_s=1.0)


@pytest.fixture(scope="module")
def extractor(person_config: Config) -> Extractor:
    return Extractor(person_config)


@pytest.fixture(scope="module")
def unchunked(
    street: Path, person_config: Config, extractor: Extractor, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    lake = tmp_path_factory.mktemp("unchunked") / "lake"
    config = Config(**{**vars(person_config), "chunk_s": 86_400.0})
    analyze_here([str(street)], lake, config, choose_models("default", "both"), extractor)
    return lake


def test_people_are_found_followed_and_labelled(unchunked: Path) -> None:
    lake = open_lake(str(unchunked))
    videos = lake.table("videos").to_pylist()
    assert [(v["status"], v["n_frames_sampled"], v["covered_s"]) for v in videos] == [("ok", 42, 6.0)]
    detections = lake.pandas("detections")
    assert set(detections["label"]) == {"person"}
    assert detections.groupby("frame_index").size().between(1, 32).all()
    assert (detections["x2"] <= 768).all()
    assert detections["x2"].max() > 640, "boxes are in pixels of the source, not of the decoded frame"
    in_tracks = detections.dropna(subset="track_id")
    assert not in_tracks.duplicated(["frame_index", "track_id"]).any()
    assert in_tracks.groupby("track_id").size().max() > 30
    segments = lake.pandas("segments")
    assert set(segments["scope"]) == {"frame", "person"}
    people = segments[segments["scope"] == "person"]
    assert set(people["model"]) == {"daily22-person"}
    assert set(people["track_id"]) <= set(in_tracks["track_id"])
    assert (people["x2"] > people["x1"]).all()
    assert segments["segment_id"].is_unique
    whole = segments[segments["scope"] == "frame"]
    assert people["start_s"].is_monotonic_increasing
    assert whole["start_s"].is_monotonic_increasing
    assert whole["start_s"].iloc[0] == 0.0
    assert whole["end_s"].iloc[-1] == 6.0


@settings(max_examples=2, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(chunk_s=st.floats(0.4, 3.5), piece_frames=st.integers(2, 40))
def test_chunks_and_pieces_leave_no_trace(
    chunk_s: float, piece_frames: int, street: Path, person_config: Config, extractor: Extractor, unchunked: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:  # fmt: skip
    """Identical detections, tracks, features and segments; without merging at the borders of chunks it fails.

    Nor do the threads that label leave any.
    """
    lake = tmp_path_factory.mktemp("chunked") / "lake"
    config = Config(**{**vars(person_config), "chunk_s": chunk_s})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decode, "_MOST_PIECE_FRAMES", piece_frames)
        analyze_here([str(street)], lake, config, choose_models("default", "both"), extractor, threads=3)
    assert rows(lake, "videos")["n_chunks"].to_pylist()[0] > 1
    assert_same_whatever_the_cut(lake, unchunked)


def test_a_slow_video_cut_between_its_frames_leaves_no_trace(tmp_path: Path) -> None:
    """At two frames a second a frame is shown across chunks, and was extracted for each."""
    (tmp_path / "videos").mkdir()
    make_video(tmp_path / "videos" / "slow.mp4", RECIPES[0], n_frames=40, fps=2)
    for name, chunk_s in (("whole", 86_400.0), ("cut", 4.3)):
        config = Config(scope="frame", sample_fps=15.0, chunk_s=chunk_s)
        analyze_here(
            [str(tmp_path / "videos")], tmp_path / name, config, choose_models("default", "frame"), Extractor(config)
        )
    features = rows(tmp_path / "whole", "features")
    assert len(features) == 40
    assert sum(features["n_steps"].to_pylist()) == 300
    assert rows(tmp_path / "cut", "videos")["n_chunks"].to_pylist() == [3]
    assert_same_whatever_the_cut(tmp_path / "whole", tmp_path / "cut")


def test_only_the_wanted_labels_are_written(
    street: Path, extractor: Extractor, tmp_path: Path, person_config: Config
) -> None:
    config = Config(**{**vars(person_config), "labels": ("walk",)})
    analyze_here([str(street)], tmp_path / "lake", config, choose_models("default", "both"), extractor)
    assert set(rows(tmp_path / "lake", "segments")["label"].to_pylist()) <= {"walk"}


def test_features_are_what_the_embedder_says(unchunked: Path, street: Path, extractor: Extractor) -> None:
    """A frame's row holds the embedding of that very frame."""
    features = open_lake(str(unchunked)).table("features").to_pylist()
    frames = [row for row in features if row["scope"] == "frame"]
    with av.open(str(street)) as container:
        images = {float(f.pts * f.time_base): f for f in container.decode(video=0)}
    row = frames[10]
    image = (
        images[min(images, key=lambda t: abs(t - row["pts_s"]))]
        .reformat(640, 480, "rgb24", interpolation="AREA")
        .to_ndarray()
    )
    expected = extractor._embedder.embed([image])[0]
    assert np.array_equal(np.array(row["embedding"], np.float16), expected)


def test_changes_are_those_to_the_frame_sampled_next(unchunked: Path, street: Path, extractor: Extractor) -> None:
    features = open_lake(str(unchunked)).table("features").to_pylist()
    frames = [row for row in features if row["scope"] == "frame"]
    with av.open(str(street)) as container:
        images = {float(f.pts * f.time_base): f for f in container.decode(video=0)}
    this, following = (
        images[min(images, key=lambda t: abs(t - row["pts_s"]))]
        .reformat(640, 480, "rgb24", interpolation="AREA")
        .to_ndarray()
        .astype(np.int16)
        for row in frames[10:12]
    )
    change = (128 + following - this).clip(0, 255).astype(np.uint8)
    unchanged = np.full_like(change, 128)
    expected = extractor._embedder.embed([change, unchanged])
    assert np.array_equal(np.array(frames[10]["change"], np.float16), expected[0])
    assert np.array_equal(np.array(frames[-1]["change"], np.float16), expected[1]), "nothing follows the last frame"


def test_a_video_without_anybody_is_fine(tmp_path: Path, person_weights: Path) -> None:
    make_video(tmp_path / "empty.mp4", RECIPES[0])
    config = Config(detector=str(person_weights), sample_fps=5.0)
    summary = analyze_here(
        [str(tmp_path / "empty.mp4")],
        tmp_path / "lake",
        config,
        choose_models("default", "person", config),
        Extractor(config),
    )
    assert (summary.n_failed, summary.n_partial) == (0, 0)
    lake = open_lake(str(tmp_path / "lake"))
    assert lake.table("videos")["status"].to_pylist() == ["ok"]
    assert len(lake.table("detections")) == len(lake.table("segments")) == 0
    assert set(lake.table("features")["scope"].to_pylist()) == {"frame"}


def test_a_frame_with_three_hundred_boxes(tmp_path: Path, person_weights: Path, extractor: Extractor) -> None:
    """With a threshold of zero the detector finds hundreds of things in noise; the limit keeps the best of them."""
    assert extractor._detector is not None
    everything = tuple(extractor._detector.names.values())
    noise = np.random.default_rng(0).integers(0, 255, (480, 640, 3), np.uint8)
    with av.open(str(tmp_path / "crowd.mp4"), "w") as target:
        stream = target.add_stream("libx264", rate=5, options={"preset": "ultrafast", "crf": "10"})
        stream.width, stream.height, stream.pix_fmt = 640, 480, "yuv420p"
        for _ in range(2):
            target.mux(stream.encode(av.VideoFrame.from_ndarray(noise, format="rgb24")))
        target.mux(stream.encode(None))
    counts = {}
    for most in (300, 20):
        config = Config(
            detector=str(person_weights), classes=everything, detector_score=0.0, track_score=0.0, max_people=most,
            sample_fps=5.0, inputs=("crop", "box"),
        )  # fmt: skip
        lake = tmp_path / str(most)
        analyze_here([str(tmp_path / "crowd.mp4")], lake, config, [], Extractor(config))
        detections = open_lake(str(lake)).pandas("detections")
        counts[most] = detections.groupby("frame_index").size().tolist()
        assert not detections.dropna(subset="track_id").duplicated(["frame_index", "track_id"]).any()
    assert counts == {300: [300, 300], 20: [20, 20]}


def test_the_background_gives_no_segment(
    street: Path, person_config: Config, extractor: Extractor, unchunked: Path, tmp_path: Path
) -> None:
    frame_model, _ = choose_models("default", "both")
    labels = Counter(row["label"] for row in rows(unchunked, "segments").to_pylist() if row["scope"] == "frame")
    (usual, _), *_ = labels.most_common(1)
    quiet = replace(frame_model, background=usual)
    analyze_here([str(street)], tmp_path / "lake", person_config, [quiet], extractor)
    assert Counter(rows(tmp_path / "lake", "segments")["label"].to_pylist()) == labels - Counter({usual: labels[usual]})


def test_noise_is_no_change_between_frames(people: Image) -> None:
    """Somebody who comes is, and so is what adds up slowly since the detector looked."""
    rng = np.random.default_rng(0)
    noisy = [np.clip(people + rng.normal(0, 4, people.shape), 0, 255).astype(np.uint8) for _ in range(3)]
    come = people.copy()
    come[100:140, 200:215] = 255 - come[100:140, 200:215]
    slowly = [np.clip(come.astype(int) + step, 0, 255).astype(np.uint8) for step in (2, 4, 6)]
    frames = np.stack([people, *noisy, come, *slowly])
    assert changed_frames(frames, 5.0).tolist() == [0, 4, 7]
    assert changed_frames(frames, 255.0).tolist() == [0]
    assert len(changed_frames(frames, 1e-9)) == len(frames)


def test_a_still_video_is_looked_at_once_for_each_piece(
    street: Path, extractor: Extractor, person_config: Config
) -> None:
    config = Config(**{**vars(person_config), "skip_unchanged": 255.0})
    (ref,) = list_videos([str(street)])
    (task,) = tasks_of(0, plan_video(ref, probe_video(ref), config.grid_rate, 86_400.0))
    piece = next(decode_pieces(task, config))
    boxes = [look.boxes for look in Extractor(config)._look(piece)]
    (first,) = extractor._detector.detect(piece.frames.images[:1])
    assert len(boxes) == len(piece.frames.steps)
    assert all(np.array_equal(found.xyxy, first.xyxy) for found in boxes)
