"""Every kind of file that archives hold, through every step, in every scope and sampling: the same people come out.

Nothing is compared with what a person labelled: what is known is that all these files show the same scene.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.config import FRAME_INPUTS, PERSON_INPUTS, Config
from pipeline.engine.models import choose_models
from pipeline.lake.query import open_lake
from pipeline.steps.extract import Extractor
from tests.lakes import analyze_here
from tests.overlaps import overlaps
from tests.variants import VARIANTS

FPS = 5
N_FRAMES = 6
SAMPLE_FPS = 1.25
WIDTH, HEIGHT = 256, 192
OF_PEOPLE = tuple(name for name in PERSON_INPUTS if name != "pose")
INPUTS = {"frame": FRAME_INPUTS, "person": OF_PEOPLE, "both": (*FRAME_INPUTS, *OF_PEOPLE)}
# Seconds at which each frame is shown, where that is not five a second.
SPACING_S: dict[str, Callable[[int], float]] = {
    "third-of-a-frame-per-second": lambda number: 3.0 * number,
    "ntsc-time-base": lambda number: 1001 * number / 30_000,
    "mxf": lambda number: number / 25,
    "variable-rate": lambda number: number / FPS + 0.06 * (number % 3),
}
# By how many pixels of the width a file's picture is larger than the scene.
LARGER = {name: 1 for name in VARIANTS if name.startswith("odd-size")}
# Colours that a detector has not learnt cost it some of its sureness, or the edges of a box.
CODECS = {"rotated-90": "h264", "hevc": "hevc", "vp9": "vp9", "raw-m2v": "mpeg2video", "alpha-prores": "prores"}


@pytest.fixture(scope="module")
def scene(data_dir: Path) -> list[NDArray[np.uint8]]:
    """Six frames of the street, with three people, from the half of which no bundled model has seen anything."""
    with av.open(str(data_dir / "street" / "vtest.avi")) as container:
        shown = itertools.islice((f for f in container.decode(video=0) if f.time >= 70.0), 0, 2 * N_FRAMES, 2)
        return [np.ascontiguousarray(f.to_ndarray(format="rgb24")[192:384, 64:320]) for f in shown]


@pytest.fixture(scope="module")
def archive(scene: list[NDArray[np.uint8]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder with the scene in every kind of file, by the name of the kind."""
    folder = tmp_path_factory.mktemp("conformance")
    return {name: make(folder, scene, FPS) for name, make in VARIANTS.items()}


# Quick are those of `both`: of its rows all is asserted that is of the other scopes'.
WAYS = [
    pytest.param(way, id="-".join(way), marks=() if way[0] == "both" else pytest.mark.long)
    for way in itertools.product(INPUTS, ("exact", "fast"))
]

Found = dict[str, dict[str, Any]]
"""For each kind of file its row of `videos`, and its rows of other tables as lists."""


@pytest.fixture(scope="module", params=WAYS)
def found(
    request: pytest.FixtureRequest, archive: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, str, Found]:
    """What one job over the folder found, in a scope and a sampling, with every input."""
    scope, sampling = request.param
    config = Config(
        scope=scope, sampling=sampling, inputs=INPUTS[scope], sample_fps=SAMPLE_FPS, min_track_s=0.1, max_people=3,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("lake") / "lake"
    analyze_here(
        [str(path) for path in archive.values()],
        folder,
        config,
        choose_models("default", scope, config),
        Extractor(config),
    )
    lake = open_lake(str(folder))
    rows: Found = {}
    uris = {str(path): name for name, path in archive.items()}
    for video in lake.table("videos").to_pylist():
        rows[uris[video["uri"]]] = {"video": video}
    ids = {row["video"]["video_id"]: name for name, row in rows.items()}
    for table in ("segments", "detections", "failures"):
        for row in rows.values():
            row[table] = []
        for row in lake.table(table).to_pylist():
            rows[ids[row["video_id"]]][table].append(row)
    for row in rows.values():
        row["frames"] = []
    for row in lake.table("features", ["video_id", "pts_s", "scope"]).to_pylist():
        if row["scope"] == "frame":
            rows[ids[row["video_id"]]]["frames"].append(row["pts_s"])
    return scope, sampling, rows


@pytest.fixture(scope="module")
def boxes(archive: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> list[NDArray[np.float32]]:
    """The sure boxes in each frame of the plain file."""
    config = Config(inputs=("box",), sample_fps=float(FPS), max_people=3)
    folder = tmp_path_factory.mktemp("plain") / "lake"
    analyze_here([str(archive["plain"])], folder, config, [], Extractor(config))
    detections = open_lake(str(folder)).pandas("detections")
    sure = detections[detections["score"] > 0.7]
    of_frames = [sure[sure["frame_index"] == number] for number in range(N_FRAMES)]
    found = [rows[["x1", "y1", "x2", "y2"]].to_numpy(np.float32) for rows in of_frames]
    assert all(len(each) for each in found)
    return found


def test_every_kind_of_file_gives_the_same_people_in_the_same_places(
    found: tuple[str, str, Found], boxes: list[NDArray[np.float32]]
) -> None:
    scope, sampling, rows = found
    wrong = {}
    for name, row in rows.items():
        try:
            check(name, scope, sampling, row, boxes)
        except AssertionError as error:
            wrong[name] = str(error).splitlines()[0]
    assert wrong == {}, "\n".join(f"{name}: {message}" for name, message in wrong.items())
    assert rows.keys() == VARIANTS.keys()


def check(name: str, scope: str, sampling: str, row: dict[str, Any], boxes: list[NDArray[np.float32]]) -> None:
    """Assert that a file's rows are as they should be."""
    video, n_frames = row["video"], 1 if name == "one-frame" else N_FRAMES
    assert row["failures"] == [], [failure["message"] for failure in row["failures"]]
    assert video["status"] == "ok", video["status"]
    larger = LARGER.get(name, 0)
    assert (video["width"], video["height"]) == (WIDTH + larger, HEIGHT + larger), "size"
    assert video["codec"] == CODECS.get(name, video["codec"]), video["codec"]
    assert "lib" not in video["codec"], video["codec"]
    spacing_s = SPACING_S.get(name, lambda number: number / FPS)
    shown_s = np.array([spacing_s(number) for number in range(n_frames)])
    assert row["frames"], "no frames"
    numbers = [int(np.abs(shown_s - pts_s).argmin()) for pts_s in row["frames"]]
    if sampling == "exact":
        steps_s = np.arange(0.0, video["duration_s"] - 1e-6, 1 / SAMPLE_FPS)
        wanted = sorted({int(np.flatnonzero(shown_s <= step_s + 1e-6)[-1]) for step_s in steps_s})
        assert numbers == wanted, f"frames {numbers}, not {wanted}"
    off_s = np.abs(shown_s[numbers] - row["frames"]).max()
    assert off_s < 0.02, f"a frame is {off_s:.3f} s off"
    assert video["covered_s"] <= video["duration_s"] + 1e-6, f"{video['covered_s']} of {video['duration_s']} s"
    assert {segment["scope"] for segment in row["segments"]} <= {"frame", "person"}
    if scope in ("frame", "both"):
        assert any(segment["scope"] == "frame" for segment in row["segments"]), "no segment of frames"
    if scope in ("person", "both"):
        scale = (WIDTH + larger) / WIDTH
        check_people(row, numbers, [each * scale for each in boxes])
        if n_frames > 1:
            assert any(segment["scope"] == "person" for segment in row["segments"]), "no segment of people"


def check_people(row: dict[str, Any], numbers: list[int], boxes: list[NDArray[np.float32]]) -> None:
    """Assert that the people of each frame are where those of the plain file are."""
    for number, pts_s in zip(numbers, row["frames"], strict=True):
        seen = [[box[side] for side in ("x1", "y1", "x2", "y2")] for box in row["detections"] if box["pts_s"] == pts_s]
        assert seen, f"nobody in frame {number}"
        best = overlaps(boxes[number], np.array(seen, np.float32)).max(axis=1)
        assert best.min() > 0.5, f"overlaps in frame {number}: {best.round(2)}"
