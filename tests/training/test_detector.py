"""A strong detector labels frames, a small one learns from them; and what becomes of it."""

from __future__ import annotations

import csv
import logging
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest
import yaml

from pipeline.archive.refs import VideoRef
from pipeline.archive.sources import list_videos
from pipeline.config import EMBEDDED_DETECTOR
from pipeline.errors import UsageError
from pipeline.training.distill import LabelOptions, Teacher, label_videos
from pipeline.vision import people_network
from pipeline.vision.detector import Detector
from pipeline.vision.detector_bundle import load_detector_bundle
from pipeline.vision.network import Image
from pipeline.vision.runtime import Runtime
from pipeline.vision.weights import find_weights
from tests.conftest import REPOSITORY
from tests.overlaps import overlaps

EMBEDDED = ["person_nano", EMBEDDED_DETECTOR]


@pytest.fixture(scope="module")
def street_labels(data_dir: Path, person_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seconds of pedestrians, labelled, and a file that is no video."""
    folder = tmp_path_factory.mktemp("labels")
    (ref,) = list_videos([str(data_dir / "street" / "vtest.avi")])
    spans = [VideoRef(ref.uri, ref.size_bytes, ref.modified, 0.0, 3.0)]
    (folder / "noise.mp4").write_bytes(b"no video")
    teacher = Teacher(Detector(str(person_weights), Runtime("cpu", "f32", 2), ["person"], 640, 0.35, 100))
    options = LabelOptions(every_s=0.5, held_out=0.0)
    label_videos([*spans, *list_videos([str(folder / "noise.mp4")])], teacher, folder / "data", options)
    return folder / "data"


def boxes_of(label_file: Path) -> np.ndarray:
    rows = [[float(value) for value in line.split()] for line in label_file.read_text().splitlines()]
    return np.array(rows).reshape(-1, 5)


def test_labels_are_the_boxes_of_the_teacher(street_labels: Path, person_weights: Path) -> None:
    images = sorted((street_labels / "images" / "train").iterdir())
    labels = sorted((street_labels / "labels" / "train").iterdir())
    assert [path.stem for path in images] == [path.stem for path in labels]
    assert len(images) == 2 * 6, "each frame and an enlarged part of it"
    whole = [path for path in images if path.stem.endswith("-0")]
    teacher = Detector(str(person_weights), Runtime("cpu", "f32", 2), ["person"], 640, 0.35, 100)
    for path in whole[:2]:
        image = cv2.imread(str(path))
        found = teacher.detect(np.ascontiguousarray(image[None, :, :, ::-1]))[0]
        written = boxes_of(street_labels / "labels" / "train" / f"{path.stem}.txt")
        assert abs(len(written) - len(found.scores)) <= 1, "JPEG may push a box over the threshold"
        centres = (found.xyxy[:, :2] + found.xyxy[:, 2:]) / 2 / (image.shape[1], image.shape[0])
        distance = np.linalg.norm(written[:, None, 1:3] - centres[None], axis=-1).min(axis=1)
        assert np.median(distance) < 0.005
    record = yaml.safe_load((street_labels / "data.yaml").read_text())
    assert record["names"] == {0: "person"}


def test_a_file_that_is_no_video_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "noise.mp4").write_bytes(b"no video")
    teacher = Teacher(Detector(EMBEDDED_DETECTOR, Runtime("cpu", "f32"), ["person"], None, 0.35, 100))
    with caplog.at_level(logging.WARNING):
        label_videos(list_videos([str(tmp_path / "noise.mp4")]), teacher, tmp_path / "data", LabelOptions())
    assert "noise.mp4" in caplog.text


@pytest.mark.e2e
def test_training_goes_on_where_it_was_killed(street_labels: Path, person_weights: Path, tmp_path: Path) -> None:
    command = [
        sys.executable, "jobs/train_detector.py", "train", str(street_labels / "data.yaml"),
        "--out", str(tmp_path / "tiny"), "--px", "64", "--epochs", "3", "--batch-size", "4", "--note", "pedestrians",
        "--teacher", str(person_weights), "--turned", "0.5",
    ]  # fmt: skip
    with subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as first:
        assert first.stdout is not None
        seen = next((line for line in first.stdout if (tmp_path / "tiny-run" / "weights" / "last.pt").exists()), None)
        assert seen is not None, "no checkpoint before the end"
        for process in [*psutil.Process(first.pid).children(recursive=True), psutil.Process(first.pid)]:
            process.send_signal(signal.SIGKILL)
        first.stdout.read()
    assert not (tmp_path / "tiny").exists()
    second = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert second.returncode == 0, second.stdout + second.stderr
    assert "Resuming training" in second.stdout + second.stderr
    bundle = load_detector_bundle(tmp_path / "tiny")
    assert (bundle.px, bundle.names, bundle.training["note"]) == (64, {0: "person"}, "pedestrians")
    assert "pedestrians" in (tmp_path / "tiny" / "README.md").read_text()
    detector = Detector(str(tmp_path / "tiny"), Runtime("cpu", "f32"), ["person"], None, 0.0, 5)
    assert detector.longest_px == 64
    assert len(detector.detect(np.zeros((1, 48, 64, 3), np.uint8))) == 1
    # The teacher's maps were learnt before and after, and the frozen backbone is still the published one.
    with (tmp_path / "tiny-run" / "results.csv").open() as file:
        # An epoch whose figures were written, but not its checkpoint, when the kill came is learnt and written again.
        repeated = {int(row["epoch"]): float(row["train/dis_loss"]) for row in csv.DictReader(file)}
    assert list(repeated) == [1, 2, 3]
    assert 0 < repeated[3] < repeated[1]
    for name, tensor in people_network.build_backbone("DEFAULT").state_dict().items():
        kept = bundle.weights[f"model.0.m.{name.removeprefix('layers.')}"]
        np.testing.assert_allclose(kept, tensor.numpy().astype(kept.dtype), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", EMBEDDED)
def test_the_embedded_detectors_find_the_people_of_a_street(people: Image, name: str) -> None:
    detector = Detector(name, Runtime("cpu", "f32"), ["person"], None, 0.35, 32)
    assert 5 <= len(detector.detect(people[None])[0].scores) <= 9, "seven people walk there"


@pytest.mark.parametrize(("name", "same_iou"), [("person_nano", 0.7), ("person_pose", 0.5)])
def test_of_boxes_that_overlap_more_one_is_left(people: Image, name: str, same_iou: float) -> None:
    detector = Detector(name, Runtime("cpu", "f32"), ["person"], None, 0.01, 300)
    assert detector._same_iou == same_iou

    def largest_overlap() -> float:
        (found,) = detector.detect(people[None])
        return float((overlaps(found.xyxy, found.xyxy) * (1 - np.eye(len(found.xyxy)))).max())

    assert largest_overlap() < same_iou + 0.02, "clipping at the border moves boxes a little"
    detector._same_iou = 0.99
    assert largest_overlap() > 0.9, "and without suppression there are such"


@pytest.mark.parametrize(("name", "most_bytes"), [("person_nano", 6e6), ("person_pose", 10e6)])
def test_the_embedded_detectors_are_small_and_have_a_card_with_their_figures(name: str, most_bytes: float) -> None:
    folder = find_weights(name)
    assert sum(path.stat().st_size for path in folder.iterdir()) < most_bytes
    bundle = load_detector_bundle(folder)
    assert f"AP50 {bundle.metrics['ap50']:.3f}" in (folder / "README.md").read_text()


@pytest.mark.parametrize("damage", ["no weights", "cut weights", "another task", "nothing there", "missing key"])
def test_damaged_detector_bundles_are_refused(tmp_path: Path, damage: str) -> None:
    load_detector_bundle(find_weights(EMBEDDED_DETECTOR)).save(tmp_path)
    if damage == "no weights":
        (tmp_path / "model.safetensors").unlink()
    elif damage == "cut weights":
        weights = (tmp_path / "model.safetensors").read_bytes()
        (tmp_path / "model.safetensors").write_bytes(weights[:1000])
    elif damage == "nothing there":
        (tmp_path / "model.json").unlink()
    else:
        record = (tmp_path / "model.json").read_text()
        changed = (
            record.replace('"detect"', '"dream"') if damage == "another task" else record.replace('"px"', '"pixels"')
        )
        (tmp_path / "model.json").write_text(changed)
    with pytest.raises(UsageError, match=str(tmp_path)):
        load_detector_bundle(tmp_path)
