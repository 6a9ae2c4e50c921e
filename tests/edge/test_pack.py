"""A packed model says on its own what a job says, and needs nothing of the package for it."""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.activity.bundle import load_bundle
from pipeline.config import Config
from pipeline.edge.compare import Clip
from pipeline.edge.flatten import flatten
from pipeline.edge.footage import Picture, pictures
from pipeline.edge.networks import load_networks
from pipeline.edge.pack import pack
from pipeline.edge.runner import Places, segments
from pipeline.engine.models import config_for, fitted
from pipeline.errors import UsageError
from pipeline.steps.extract import Extractor
from tests.edge.camera import filming
from tests.lakes import analyze_here, rows

# Runs the program as it is shipped, and tells what it has imported.
_WATCHED = """
import runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as end:
    heavy = {"torch", "ray", "pipeline", "ultralytics"}
    print({name.partition(".")[0] for name in sys.modules} & heavy, file=sys.stderr)
    raise
"""


CAUSAL = "everyday12-pose-causal"


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packs") / "pack"
    pack(CAUSAL, folder, (), ("f32",))
    return folder


@pytest.fixture(scope="module")
def packed_in_all_ways(street: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packs") / "pack"
    clip = Clip(str(street), (("walk", 0.0, 1.0),))
    pack(CAUSAL, folder, [clip], ("f32", "f16", "int8"), ("openvino", "onnx"))
    return folder


def run(packed: Path, *arguments: str | Path) -> tuple[list[dict[str, Any]], str]:
    """Run the program with nothing of this package in sight, and return its segments and what else it said."""
    command = [sys.executable, "-c", _WATCHED, packed / "edge.py", *arguments]
    done = subprocess.run(
        [*map(str, command)], capture_output=True, text=True, check=False, cwd=packed, timeout=240,
        env={"PATH": os.environ["PATH"], "PYTHONSAFEPATH": "1"},
    )  # fmt: skip
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return sorted(found, key=lambda each: (each["track_id"], each["start_s"])), done.stderr


def key(segment: dict[str, Any]) -> tuple[Any, ...]:
    return segment["track_id"], segment["label"], round(segment["start_s"], 3)


@pytest.mark.e2e
def test_alone_it_says_what_a_job_says(packed: Path, street: Path, tmp_path: Path) -> None:
    bundle = load_bundle(CAUSAL)
    config = fitted(Config.load(None, {"scope": "person", "precision": "f32"} | config_for([bundle])), [bundle])
    analyze_here([str(street)], tmp_path / "lake", config, [bundle], Extractor(config))
    expected = {key(row): row for row in rows(tmp_path / "lake", "segments").to_pylist()}
    found, said = run(packed, street, "--precision", "f32")
    assert said.strip() == "set()"
    assert len(expected) > 5
    same = [each for each in found if key(each) in expected]
    # Keypoints that were not seen for long are taken from what lies between, and a job looks further.
    assert len(same) > 0.9 * max(len(expected), len(found))
    for each in same:
        row = expected[key(each)]
        assert each["score"] == pytest.approx(row["score"], abs=0.1)
        assert each["novelty"] == pytest.approx(row["novelty"], abs=0.1)
        assert each["box"] == pytest.approx([row[side] for side in ("x1", "y1", "x2", "y2")], abs=8)


@pytest.mark.e2e
@pytest.mark.long
def test_onnx_says_the_same(packed_in_all_ways: Path, street: Path) -> None:
    by_openvino, _ = run(packed_in_all_ways, street, "--precision", "f32")
    by_onnx, _ = run(packed_in_all_ways, street, "--precision", "f32", "--runtime", "onnxruntime")
    assert [key(each) for each in by_onnx] == [key(each) for each in by_openvino]


@pytest.mark.e2e
@pytest.mark.long
@pytest.mark.parametrize("kept_as", ["openvino", "onnx"])
@pytest.mark.parametrize(("precision", "share", "least"), [("f16", 0.6, 0.8), ("int8", 0.45, 0.6)])
def test_smaller_networks_see_much_the_same(
    packed_in_all_ways: Path, street: Path, kept_as: str, precision: str, share: float, least: float
) -> None:
    packed = packed_in_all_ways
    sizes = [sum(file.stat().st_size for file in (packed / kept_as / kept).iterdir()) for kept in (precision, "f32")]
    assert sizes[0] < share * sizes[1]
    card = (packed / "README.md").read_text()
    (row,) = [line.split("|") for line in card.splitlines() if line.startswith(f"| {kept_as} | {precision} ")]
    agrees, right = float(row[4]), float(row[5])
    assert least < agrees <= 1.0
    assert right == 1.0
    runtime = {"onnx": "onnxruntime"}.get(kept_as, kept_as)
    found, _ = run(packed, street, "--precision", precision, "--runtime", runtime)
    assert found


@pytest.mark.e2e
def test_segments_come_while_the_source_goes_on(packed: Path, street: Path) -> None:
    """People walk for six seconds; then nobody is there, and the camera looks on."""
    told = json.loads((packed / "pack.json").read_text())
    footage = pictures(str(street), told["sample_fps"], told["frame_px"])
    last_s = 0.0

    def source() -> Iterator[Picture]:
        nonlocal last_s
        for picture in footage:
            yield picture
        for step in range(picture.step + 1, picture.step + 80):
            last_s = step / told["sample_fps"]
            yield Picture(step, 1, last_s, np.full_like(picture.image, 114), picture.size)

    networks = load_networks(packed, "openvino", "f32")
    told_at = [last_s for _ in segments(source(), footage.fps, told, networks)]
    assert len(told_at) > 5
    # Who is out of sight may come back for two seconds, and is waited for twice as long.
    assert max(told_at) < 11


@pytest.mark.e2e
def test_a_camera_on_the_network_is_watched(packed: Path, street: Path) -> None:
    """Over RTSP, at the pace of the street, until the camera ends the stream."""
    with filming(street, 10) as address:
        found, said = run(packed, address)
    assert said.strip() == "set()"
    assert {each["label"] for each in found} >= {"walk"}
    # Six seconds, less the one that it takes to open a stream.
    assert 4 < max(each["end_s"] for each in found) < 7
    began = [datetime.datetime.fromisoformat(each["start_at"]) for each in found]
    assert max(began) - min(began) < datetime.timedelta(seconds=8)


def test_of_a_camera_that_breaks_off_all_is_told(packed: Path, street: Path) -> None:
    told = json.loads((packed / "pack.json").read_text())
    footage = pictures(str(street), told["sample_fps"], told["frame_px"])

    def source() -> Iterator[Picture]:
        yield from footage
        raise OSError("rtsp://camera: broke off")

    found = segments(source(), footage.fps, told, load_networks(packed, "openvino", "f32"))
    labels: list[str] = []
    with pytest.raises(OSError, match="broke off"):
        labels.extend(each["label"] for each in found)
    assert labels.count("walk") > 5


def test_what_can_not_be_packed_is_refused(tmp_path: Path) -> None:
    of_another = {"features": {"detector": "person_nano"}}
    for model, precisions, message in (
        ("everyday12-pose", ("f32",), "looks ahead, and a camera does not know what comes; train one"),
        ("daily22-look", ("f32",), "reads crop, crop_flow, box; a pack holds models of box and pose"),
        (CAUSAL, ("f64",), "f64: known are f32, f16, int8"),
        (CAUSAL, ("int8",), "int8 is calibrated on clips of your cameras"),
        (replace(load_bundle(CAUSAL), training=of_another), ("f32",), "has no keypoint head"),
    ):
        with pytest.raises(UsageError, match=message):
            pack(model, tmp_path / "out", (), precisions)
    assert not (tmp_path / "out" / "edge.py").exists()


def test_a_mistake_gets_one_line(packed: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    (tmp_path / "former").mkdir()
    (tmp_path / "former" / "pack.json").write_text('{"format": 1}')
    for arguments, message in (
        (["gone.mp4"], "gone.mp4"),
        ([tmp_path / "broken.mp4"], "broken.mp4"),
        ([tmp_path / "broken.mp4", "--precision", "f16"], "no networks in f16; they are in f32"),
        ([tmp_path / "broken.mp4", "--pack", tmp_path], "pack.json"),
        ([tmp_path / "broken.mp4", "--pack", tmp_path / "former"], "packed by another version; use the edge.py that"),
    ):
        found, said = run(packed, *arguments)
        assert found == []
        assert said.startswith("error: ")
        assert message in said
        assert "Traceback" not in said


def test_a_program_of_one_file_is_refused_where_names_would_clash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "pipeline_of_a_test"
    package.mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("pipeline.edge.flatten._PACKAGE", package.name)
    (package / "__init__.py").write_text("")
    (package / "one.py").write_text(
        "# Why.\n_LIMIT = 1\n'''What.'''\n\n\ndef one():\n    return _LIMIT\n\n\ndef unused():\n    pass\n"
    )
    main = "def main():\n    return one(), {}\n\n\nif __name__ == '__main__':\n    print(main())\n"
    imports = f"from {package.name}.one import one\n"
    (package / "main.py").write_text(f"'''Said.'''\nimport math\nimport os\n{imports}{main.format('math.pi')}")
    text = flatten(f"{package.name}.main")
    assert "# Why.\n_LIMIT = 1\n'''What.'''" in text
    assert "import math" in text
    assert "unused" not in text
    assert "import os" not in text
    (tmp_path / "flat.py").write_text(text)
    printed = subprocess.run([sys.executable, tmp_path / "flat.py"], capture_output=True, text=True, check=True).stdout
    assert printed == "(1, 3.141592653589793)\n"
    (package / "main.py").write_text(f"{imports}_LIMIT = 2\n{main.format('_LIMIT')}")
    with pytest.raises(ValueError, match=r"_LIMIT is defined in .*main and in .*one; rename one"):
        flatten(f"{package.name}.main")
    inside = main.format(f"0\n    from {package.name}.one import one")
    (package / "main.py").write_text(inside)
    with pytest.raises(ValueError, match=r"main imports .*one when it is called"):
        flatten(f"{package.name}.main")


def test_places_are_thinned_out_and_their_mean_stays() -> None:
    places, step = Places(), 0
    boxes = np.random.default_rng(0).normal(100, 1, (9000, 4)).astype(np.float32)
    for box in boxes:
        places.add(step, 2, box)
        step += 2
    assert len(places.steps) <= 2049
    assert places.mean(0, 18000) == pytest.approx(boxes.mean(axis=0).tolist(), abs=1e-3)
    assert places.mean(17900, 18000) == pytest.approx(boxes[-50:].mean(axis=0).tolist(), abs=1e-3)
