"""Keypoints of a pose network go from the frame to the rows, in source pixels, however the video is cut."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline import Config, decode, detect, open_lake
from pipeline.errors import UsageError
from pipeline.lake.sequences import committed_videos
from pipeline.lake.store import Lake, part_name
from pipeline.lake.verify import verify
from pipeline.motion.kinematics import BOX_MOTION_DIM
from pipeline.motion.poses import POSE_DIM
from pipeline.steps.extract import Extractor, describe_networks
from pipeline.vision.keypoints import KEYPOINTS
from tests.lakes import analyze_here, assert_same
from tests.networks import untrained_people, untrained_poses

CONFIG = Config(
    scope="person", sample_fps=5.0, chunk_s=60.0, inputs=("frame",), detector_score=0.0, max_people=3, track_score=0.0,
    frame_px=320, detector_px=320,
)  # fmt: skip


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """The options of a job whose detector is a pose network."""
    return replace(CONFIG, detector=untrained_poses(tmp_path_factory.mktemp("weights") / "poses.pt", 17, 3))


@pytest.fixture(scope="module")
def lake(config: Config, street: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keypoints") / "lake"
    analyze_here([str(street)], folder, config, [], Extractor(config))
    return folder


def test_keypoints_are_those_of_the_detector_in_source_pixels(lake: Path, config: Config, street: Path) -> None:
    rows = open_lake(str(lake)).table("detections").to_pylist()
    video = open_lake(str(lake)).table("videos").to_pylist()[0]
    frames = list(decode(street, fps=5.0, longest_px=320))
    scale = video["width"] / frames[0].image.shape[1]
    assert scale > 1
    found = list(detect(frames, config.detector, min_score=0.0, detector_px=320))
    expected = np.concatenate([boxes.keypoints[:3] for boxes in found if boxes.keypoints is not None])
    expected[..., :2] *= scale
    assert len(rows) == 3 * len(frames)
    np.testing.assert_allclose(np.array([row["keypoints"] for row in rows]), expected, rtol=1e-5, atol=1e-3)
    assert np.ptp(expected[..., 0]) > 100


def test_a_keypoint_is_a_row_of_poses(lake: Path) -> None:
    reader = open_lake(str(lake))
    counted = reader.sql("SELECT keypoint, count(*) AS n FROM poses GROUP BY keypoint").to_pylist()
    n_boxes = reader.table("detections").num_rows
    assert {row["keypoint"]: row["n"] for row in counted} == dict.fromkeys(KEYPOINTS, n_boxes)
    wrists = reader.sql(
        "SELECT x, y, score FROM poses WHERE keypoint = 'left_wrist' ORDER BY frame_index, x"
    ).to_pylist()
    given = [row["keypoints"][KEYPOINTS.index("left_wrist")] for row in reader.table("detections").to_pylist()]
    assert sorted([row["x"], row["y"], row["score"]] for row in wrists) == sorted(given)


def test_they_do_not_tell_how_the_video_was_cut(lake: Path, config: Config, street: Path, tmp_path: Path) -> None:
    chunked = replace(config, chunk_s=1.0)
    analyze_here([str(street)], tmp_path / "lake", chunked, [], Extractor(chunked))
    assert_same(tmp_path / "lake", lake, {"n_chunks"})


def test_a_committed_lake_gives_them_back(lake: Path) -> None:
    ((_, rows, _, _),) = committed_videos(Lake(str(lake)), 0)
    written = open_lake(str(lake)).table("detections")["keypoints"].to_pylist()
    assert rows.boxes.keypoints.tolist() == written
    assert verify(Lake(str(lake))) == []


def test_poses_are_an_input_of_the_network(lake: Path) -> None:
    ((_, rows, track_ids, _),) = committed_videos(Lake(str(lake)), 0)
    for sequence in rows.track_sequences(track_ids):
        given = np.concatenate(list(rows.inputs(sequence, ("box", "pose"))))
        assert given.shape == (sequence.n_steps, BOX_MOTION_DIM + POSE_DIM)
        assert np.isfinite(given).all()


def test_one_look_gives_the_same_however_the_video_is_cut(street: Path, tmp_path: Path) -> None:
    """Rows of frames and boxes are described by the detector's own pass; nothing else looks at the pixels."""
    detector = untrained_people(tmp_path / "people")
    whole = replace(CONFIG, detector=detector, embedder="detector", inputs=("frame", "crop", "box", "pose"))
    chunked = replace(whole, chunk_s=1.0)
    for name, config in (("whole", whole), ("chunked", chunked)):
        analyze_here([str(street)], tmp_path / name, config, [], Extractor(config))
    assert_same(tmp_path / "whole", tmp_path / "chunked", {"n_chunks"})
    assert replace(whole, inputs=()).embedded == ("crop", "crop_flow", "box")
    features = open_lake(str(tmp_path / "whole")).table("features")
    assert features.schema.field("embedding").type.list_size == describe_networks(whole).dim == 1328
    assert "change" not in features.column_names
    vectors = np.stack(features["embedding"].to_numpy(zero_copy_only=False))
    assert len(np.unique(vectors, axis=0)) >= 0.7 * len(vectors), "a box may cover the frame"


def test_what_describes_nothing_is_no_embedder() -> None:
    with pytest.raises(UsageError, match="'person_nano' does not; name another embedder"):
        describe_networks(replace(CONFIG, detector="person_nano", embedder="detector", inputs=("frame",)))
    with pytest.raises(UsageError, match="needs a detector, which scope 'frame'"):
        replace(CONFIG, scope="frame", embedder="detector", inputs=("frame",))
    with pytest.raises(UsageError, match="'crop_change' is a look of its own"):
        replace(CONFIG, embedder="detector", inputs=("crop_change",))


def test_a_model_of_poses_says_before_the_job_that_the_weights_know_none() -> None:
    with pytest.raises(UsageError, match="'person_nano' knows no keypoints; name pose weights"):
        describe_networks(replace(CONFIG, detector="person_nano", inputs=("pose", "box")))


def test_weights_with_other_keypoints_give_them_by_number(street: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, detector=untrained_poses(tmp_path / "hands.pt", 4, 2))
    assert describe_networks(config).n_keypoints == 4
    analyze_here([str(street)], tmp_path / "lake", config, [], Extractor(config))
    seen = (
        open_lake(str(tmp_path / "lake"))
        .sql("SELECT DISTINCT keypoint, score FROM poses ORDER BY keypoint")
        .to_pylist()
    )
    assert seen == [{"keypoint": str(number), "score": 1.0} for number in range(1, 5)]


def test_weights_without_keypoints_leave_them_unknown(
    street: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = replace(CONFIG, detector="person_nano")
    with caplog.at_level("INFO", "pipeline.steps.extract"):
        analyze_here([str(street)], tmp_path / "lake", config, [], Extractor(config))
    assert "Larger weights find more: --detector yolo11n-pose.pt" in caplog.text
    reader = open_lake(str(tmp_path / "lake"))
    assert reader.table("detections")["keypoints"].null_count == reader.table("detections").num_rows > 0
    assert reader.sql("SELECT count(*) AS n FROM poses").to_pylist() == [{"n": 0}]


def test_boxes_of_an_earlier_release_are_read_beside_those_with_keypoints(lake: Path, tmp_path: Path) -> None:
    mixed = tmp_path / "lake"
    shutil.copytree(lake, mixed)
    for table in ("videos", "detections"):
        shutil.copy(mixed / table / part_name(0), mixed / table / part_name(1))
    new = pq.read_table(mixed / "detections" / part_name(1))
    pq.write_table(new.drop_columns("keypoints"), mixed / "detections" / part_name(0))
    keypoints = open_lake(str(mixed)).table("detections", ["keypoints"])["keypoints"]
    assert (keypoints.null_count, len(keypoints)) == (new.num_rows, 2 * new.num_rows)
    (mixed / "videos" / part_name(1)).unlink()
    keypoints = open_lake(str(mixed)).table("detections", ["keypoints"])["keypoints"]
    assert keypoints.null_count == len(keypoints) == new.num_rows
