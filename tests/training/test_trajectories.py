"""Tracks to learn from: text files, lakes, and what made-up cameras see of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import UsageError
from pipeline.motion.ground import Ground
from pipeline.motion.trajectories import Trajectory
from pipeline.training.cameras import seen_by_cameras
from pipeline.training.trajectories import SceneTracks, read_scenes
from tests.engine.test_forecast import walk
from tests.lakes import lake_of_walkers


def test_places_in_metres_are_read_as_of_eth_and_ucy(data_dir: Path) -> None:
    (scene,) = read_scenes(data_dir / "trajectories" / "files" / "biwi_eth.txt")
    assert scene.unit == "m"
    # The file's first lines: 780 1.0 8.46 3.59; 790 1.0 9.57 3.79.
    np.testing.assert_allclose(scene.trajectories[0].time_s[:2], [31.2, 31.6])
    np.testing.assert_allclose(scene.trajectories[0].xy[:2], [[8.46, 3.59], [9.57, 3.79]])
    assert sum(len(each.time_s) for each in scene.trajectories) == 5492


def test_boxes_are_read_as_of_mot(tmp_path: Path) -> None:
    (tmp_path / "gt.txt").write_text("2,7,10,20,30,80,1,1,1\n1,7,8,20,30,80,1,1,1\n1,9,0,0,5,5,0,1,1\n")
    (scene,) = read_scenes(tmp_path / "gt.txt", fps=10.0)
    assert scene.unit == "heights"
    (track,) = scene.trajectories
    np.testing.assert_allclose(track.time_s, [0.1, 0.2])
    np.testing.assert_allclose(track.xy, [[23, 100], [25, 100]])
    np.testing.assert_allclose(track.size, [80, 80])
    (on_ground,) = read_scenes(tmp_path / "gt.txt", 10.0, Ground(np.diag([0.1, 0.1, 1.0])))
    assert on_ground.unit == "m"
    np.testing.assert_allclose(on_ground.trajectories[0].xy, [[2.3, 10], [2.5, 10]])
    np.testing.assert_allclose(on_ground.trajectories[0].size, [1, 1])


def test_a_lake_has_a_scene_for_each_video(tmp_path: Path) -> None:
    people = {1: walk(0, 3, 0, 100), 2: walk(1, 2, 0, 200)}
    lake = lake_of_walkers(tmp_path / "lake", [{"a": people}, {"b": {4: walk(0, 1, 5, 5)}}])
    scenes = list(read_scenes(str(lake)))
    assert [len(scene.trajectories) for scene in scenes] == [2, 1]
    np.testing.assert_allclose(scenes[0].trajectories[1].xy, people[2][1], atol=1e-4)
    np.testing.assert_allclose(scenes[0].trajectories[1].size, 100)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no tracks in it"),
        ("1 2 3\n", r"line 1: 3 columns; wanted are frame, person, x, y in all lines"),
        ("1 2 3 4\n1 2 3\n", r"line 2: 3 columns"),
        ("1 2 3 4\n\n2 2 3 four\n", r"line 3: could not convert string to float: 'four'"),
        ("1 2 3 nan\n", r"line 1: 4 columns"),
        ("1 2 3 4\n1 2 5 6\n", "person 2 is twice in one frame"),
    ],
)
def test_what_is_no_track_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "tracks.txt").write_text(text)
    with pytest.raises(UsageError, match=rf"tracks.txt.*{message}"):
        list(read_scenes(tmp_path / "tracks.txt"))


def test_sources_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"gone: no file of tracks, and no lake"):
        list(read_scenes(tmp_path / "gone"))
    (tmp_path / "video.mp4").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(UsageError, match=r"video.mp4: can't be read as text"):
        list(read_scenes(tmp_path / "video.mp4"))
    (tmp_path / "metres.txt").write_text("1 2 3 4\n")
    with pytest.raises(UsageError, match="its places are in metres already"):
        list(read_scenes(tmp_path / "metres.txt", ground=Ground(np.eye(3))))


def test_a_camera_sees_people_where_a_pinhole_does(data_dir: Path) -> None:
    (scene,) = read_scenes(data_dir / "trajectories" / "files" / "biwi_hotel.txt")
    seen = seen_by_cameras(scene, 3, seed=1)
    assert [each.unit for each in seen] == ["heights"] * 3
    for camera in seen:
        assert camera.trajectories
        for track in camera.trajectories:
            assert np.isfinite(track.xy).all()
            assert (track.size > 0).all()
    feet = np.concatenate([track.xy for track in seen[0].trajectories])
    size = np.concatenate([track.size for track in seen[0].trajectories])
    # Who is further up in the picture is further away, and smaller: the horizon is where size would be 0.
    slope, at_zero = np.polyfit(feet[:, 1], size, 1)
    assert slope > 0
    assert np.corrcoef(feet[:, 1], size)[0, 1] > 0.99
    assert -at_zero / slope < feet[:, 1].min()
    again = seen_by_cameras(scene, 3, seed=1)
    np.testing.assert_array_equal(again[2].trajectories[0].xy, seen[2].trajectories[0].xy)


def test_who_is_behind_the_camera_is_in_no_picture() -> None:
    far, near = walk(0, 5, 0, 0, right=0.1), walk(0, 60, -200, 0, right=10.0)
    tracks = [Trajectory(time_s, xy, np.ones(len(time_s))) for time_s, xy in (far, near)]
    seen = seen_by_cameras(SceneTracks("street", tracks, "m"), 8)
    whole = len(near[0])
    assert all(sum(len(track.time_s) for track in camera.trajectories) < whole + len(far[0]) for camera in seen)
