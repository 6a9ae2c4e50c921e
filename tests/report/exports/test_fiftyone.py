"""FiftyOne: samples, their temporal detections, and the labels of their frames, as its importer takes them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.lake.query import LakeReader
from pipeline.report.exports import export_segments
from pipeline.report.exports.fiftyone import _field
from tests.report.exports.lake import EMPTY, SECONDS, A, lake, make_lake

__all__ = ["lake"]


def test_fiftyone(lake: LakeReader, tmp_path: Path) -> None:
    export_segments(lake, tmp_path / "out", "fiftyone")
    about = json.loads((tmp_path / "out" / "metadata.json").read_text())
    # Without a version it is the layout that has a file of frames for each video.
    assert about["media_type"] == "video"
    assert "version" not in about
    samples = {
        each["filepath"]: each for each in json.loads((tmp_path / "out" / "samples.json").read_text())["samples"]
    }
    assert [*samples] == sorted(SECONDS)
    a = samples[A]
    assert a["metadata"]["frame_rate"] == 10.0
    assert (a["metadata"]["total_frame_count"], a["metadata"]["frame_width"]) == (40, 640)
    assert a["m"]["_cls"] == "TemporalDetections"
    fall = a["m"]["detections"][-1]
    assert fall == {
        "_cls": "TemporalDetection", "label": "fall", "support": [21, 40], "confidence": 0.25, "index": 7,
        "start_s": 2.0, "end_s": 4.0,
    }  # fmt: skip
    frames = json.loads((tmp_path / "out" / a["frames"]).read_text())["frames"]
    assert sorted(map(int, frames)) == list(range(1, 40, 2))
    person, dog, nobody = frames["3"]["people"]["detections"]
    assert person["bounding_box"] == pytest.approx([1 / 64, 1 / 24, 1 / 16, 1 / 6])
    assert (person["index"], dog["index"], dog["label"], "index" in nobody) == (7, 9, "dog", False)
    (pose,) = frames["3"]["poses"]["keypoints"]
    assert (pose["index"], pose["points"][0], pose["confidence"][0]) == (7, [0.1, 0.1], 0.5)
    assert json.loads((tmp_path / "out" / samples[EMPTY]["frames"]).read_text()) == {"frames": {}}


def test_of_two_steps_of_one_frame_the_last_counts(tmp_path: Path) -> None:
    lake = make_lake(tmp_path / "lake", fps={A: 2.5})
    export_segments(lake, tmp_path / "out", "fiftyone")
    frames = json.loads((tmp_path / "out" / "frames" / "v/x/a.mp4.json").read_text())["frames"]
    # Steps at 0.2 s and 0.4 s are both of the frame at 0.4 s.
    person, dog = frames["2"]["people"]["detections"]
    assert (person["bounding_box"][0] * 640, person["index"], dog["index"]) == (20.0, 7, 9)


@pytest.mark.parametrize("model", ["frames", "2 fast", "_x.y", "m\u00fc"])
def test_fields_of_fiftyone_have_names_that_it_takes(model: str) -> None:
    name = _field(model)
    assert name.isidentifier()
    assert name.isascii()
    assert not name.startswith("_")
    assert name != "frames"
