"""The steps from chunk to rows, without Ray: what they write must not depend on how the work was cut."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.activity.bundle import load_bundle
from pipeline.config import Config
from pipeline.engine import extract
from pipeline.engine.extract import Extractor
from pipeline.lake.query import open_lake
from tests.lakes import analyze_here, assert_same_whatever_the_cut, rows
from tests.synthetic import RECIPES, make_video


@pytest.fixture(scope="module")
def street(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six seconds of pedestrians, with a keyframe every half second so that there is something to cut."""
    path = tmp_path_factory.mktemp("street") / "street.mp4"
    with av.open(str(data_dir / "street" / "vtest.avi")) as source, av.open(str(path), "w") as target:
        stream = target.add_stream("libx264", rate=10, options={"g": "5", "bf": "2", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 768, 576, "yuv420p"
        for number, frame in enumerate(source.decode(video=0)):
            if number == 60:
                break
            frame.pts = number
            target.mux(stream.encode(frame.reformat(format="yuv420p")))
        target.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def person_config(person_weights: Path) -> Config:
    return Config(scope="both", detector=str(person_weights), sample_fps=7.0, min_track_s=1.0)


@pytest.fixture(scope="module")
def extractor(person_config: Config) -> Extractor:
    return Extractor(person_config)


@pytest.fixture(scope="module")
def unchunked(
    street: Path, person_config: Config, extractor: Extractor, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    lake = tmp_path_factory.mktemp("unchunked") / "lake"
    config = Config(**{**vars(person_config), "chunk_s": 86_400.0})
    analyze_here([str(street)], lake, config, load_bundle(), extractor)
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
    assert set(people["track_id"]) <= set(in_tracks["track_id"])
    assert (people["x2"] > people["x1"]).all()
    assert segments["segment_id"].is_unique
    assert segments["start_s"].is_monotonic_increasing
    whole = segments[segments["scope"] == "frame"]
    assert whole["start_s"].iloc[0] == 0.0
    assert whole["end_s"].iloc[-1] == 6.0


@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(chunk_s=st.floats(0.4, 3.5), piece_frames=st.integers(2, 40))
def test_chunks_and_pieces_leave_no_trace(
    chunk_s: float, piece_frames: int, street: Path, person_config: Config, extractor: Extractor, unchunked: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:  # fmt: skip
    """Identical detections, tracks, features and segments; without merging at the borders of chunks it fails."""
    lake = tmp_path_factory.mktemp("chunked") / "lake"
    config = Config(**{**vars(person_config), "chunk_s": chunk_s})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extract, "_MOST_PIECE_FRAMES", piece_frames)
        analyze_here([str(street)], lake, config, load_bundle(), extractor)
    assert rows(lake, "videos")["n_chunks"].to_pylist()[0] > 1
    assert_same_whatever_the_cut(lake, unchunked)


def test_a_slow_video_cut_between_its_frames_leaves_no_trace(tmp_path: Path) -> None:
    """At two frames a second a frame is shown across chunks, and was extracted for each."""
    (tmp_path / "videos").mkdir()
    make_video(tmp_path / "videos" / "slow.mp4", RECIPES[0], n_frames=40, fps=2)
    for name, chunk_s in (("whole", 86_400.0), ("cut", 4.3)):
        config = Config(sample_fps=15.0, chunk_s=chunk_s)
        analyze_here([str(tmp_path / "videos")], tmp_path / name, config, load_bundle(), Extractor(config))
    features = rows(tmp_path / "whole", "features")
    assert len(features) == 40
    assert sum(features["n_steps"].to_pylist()) == 300
    assert rows(tmp_path / "cut", "videos")["n_chunks"].to_pylist() == [3]
    assert_same_whatever_the_cut(tmp_path / "whole", tmp_path / "cut")


def test_only_the_wanted_labels_are_written(
    street: Path, extractor: Extractor, tmp_path: Path, person_config: Config
) -> None:
    config = Config(**{**vars(person_config), "labels": ("walk",)})
    analyze_here([str(street)], tmp_path / "lake", config, load_bundle(), extractor)
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
        .reformat(640, 480, "rgb24", interpolation="BILINEAR")
        .to_ndarray()
    )
    expected = extractor._embedder.embed([image])[0]
    assert np.array_equal(np.array(row["embedding"], np.float16), expected)
