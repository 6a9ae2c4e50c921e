"""Whether the camera moves is seen, told, and no matter of how a video is cut."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import pyarrow.parquet as pq
import pytest

import pipeline
from pipeline.config import Config
from pipeline.lake.forecasts import moving_cameras
from pipeline.lake.query import open_lake
from pipeline.steps.extract import Extractor
from tests.lakes import analyze_here, assert_same_whatever_the_cut
from tests.test_cli import here, text

CONFIG = Config(scope="person", detector="person_nano", sample_fps=10.0, inputs=("box",), embedder="efficientnet_lite0")


@pytest.fixture(scope="module")
def pan(street: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A camera that stands still for two seconds and then pans over the street for four, ten frames a second.

    A keyframe follows each frame that is looked at, so a chunk may end with it.
    """
    path = tmp_path_factory.mktemp("pan") / "pan.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"bf": "0"})
        stream.width, stream.height, stream.pix_fmt = 320, 320, "yuv420p"
        stream.codec_context.gop_size = 10
        for number, seen in enumerate(pipeline.decode(street, fps=10)):
            left = 6 * max(0, number - 20)
            frame = av.VideoFrame.from_ndarray(seen.image[:320, left : left + 320].copy(), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.e2e
def test_a_camera_that_pans_is_told_apart_from_a_fixed_one(pan: Path, street: Path, tmp_path: Path) -> None:
    extractor = Extractor(CONFIG)
    lakes = [tmp_path / "short", tmp_path / "long"]
    for chunk_s, lake in zip((0.7, 60.0), lakes, strict=True):
        analyze_here([str(pan), str(street)], lake, replace(CONFIG, chunk_s=chunk_s), [], extractor)
    assert_same_whatever_the_cut(*lakes)
    moved = {Path(row["uri"]): row for row in open_lake(str(lakes[0])).table("videos").to_pylist()}
    assert moved[street]["camera_moved_s"] == 0.0
    # Six looks, one a second; at 2, 3, 4 and 5 s the camera moves.
    assert moved[pan]["camera_moved_s"] == pytest.approx(moved[pan]["covered_s"] * 4 / 6)
    said = f"the camera moves in 1 of 2 videos ({pan})"
    assert moving_cameras(open_lake(str(lakes[0]))).startswith(said)
    assert moving_cameras(open_lake(str(lakes[0])), f"uri = '{street}'") == ""
    for command in (["forecast"], ["watch", "--line", "a=0,100,320,100"]):
        done = here(*command, "--lake", lakes[0])
        assert (done.returncode, said in text(done.stderr)) == (0, True)
    assert "Note" not in text(here("watch", "--line", "a=0,9,9,9", "--where", "false", "--lake", lakes[0]).stderr)
    # A release before this one did not look.
    part = lakes[0] / "videos" / "part-00000.parquet"
    pq.write_table(pq.read_table(part).drop_columns(["camera_moved_s"]), part, write_page_checksum=True)
    assert moving_cameras(open_lake(str(lakes[0]))) == ""


@pytest.mark.e2e
def test_flow_that_is_an_input_tells_the_same_of_the_camera(pan: Path, tmp_path: Path) -> None:
    moved = []
    for inputs in (("box",), ("crop_flow", "frame_flow", "box")):
        config = replace(CONFIG, inputs=inputs)
        analyze_here([str(pan)], tmp_path / inputs[0], config, [], Extractor(config))
        moved.append(open_lake(str(tmp_path / inputs[0])).table("videos")["camera_moved_s"].to_pylist())
    assert moved[0] == moved[1] != [0.0]
