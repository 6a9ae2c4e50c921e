"""A keypoint head learns where keypoints are; a training that was cut off ends as a quiet one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pipeline.config import EMBEDDED_DETECTOR
from pipeline.errors import UsageError
from pipeline.training import keypoints
from pipeline.training.detector import DetectorOptions, train_detector
from pipeline.training.keypoint_views import KeypointOptions
from pipeline.training.people import VISIBLE, People, describe_data_set, write_picture
from pipeline.vision.detector import Detector
from pipeline.vision.detector_bundle import load_detector_bundle
from pipeline.vision.keypoints import KEYPOINTS
from pipeline.vision.network import Image
from pipeline.vision.runtime import Runtime
from pipeline.vision.weights import find_weights

F32 = Runtime("cpu", "f32", 2)


@pytest.fixture(scope="module")
def labelled(people: Image, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of pedestrians whose keypoints are said to lie in three columns, one below the other."""
    folder = tmp_path_factory.mktemp("keypoints")
    (found,) = Detector(EMBEDDED_DETECTOR, F32, ["person"], 480, 0.35, 32).detect(people[None])
    xyxy = found.xyxy
    columns = {"left": 0.3, "right": 0.7}
    across = np.array([columns.get(name.split("_")[0], 0.5) for name in KEYPOINTS], np.float32)
    down = np.linspace(0.1, 0.9, len(KEYPOINTS), dtype=np.float32)
    places = np.full((len(xyxy), len(KEYPOINTS), 3), VISIBLE, np.float32)
    places[..., 0] = xyxy[:, :1] + across * (xyxy[:, 2:3] - xyxy[:, :1])
    places[..., 1] = xyxy[:, 1:2] + down * (xyxy[:, 3:] - xyxy[:, 1:2])
    for number in range(8):
        brighter = cv2.convertScaleAbs(people, alpha=1 + number / 20)
        part = "val" if number == 0 else "train"
        write_picture(folder, part, str(number), np.asarray(brighter, np.uint8), People(xyxy, places))
    return describe_data_set(folder, "person", has_keypoints=True)


def options(**changed: Any) -> DetectorOptions:
    usual = {"start": EMBEDDED_DETECTOR, "px": 64, "epochs": 0, "keypoint_epochs": 2, "batch_size": 2, "workers": 0}
    return DetectorOptions(**usual | changed)


def test_a_head_learns_where_keypoints_are_and_leaves_boxes_as_they_are(labelled: Path, tmp_path: Path) -> None:
    bundle = train_detector([labelled], tmp_path / "columns", options(px=160, keypoint_epochs=6), "pedestrians")
    start = load_detector_bundle(find_weights(EMBEDDED_DETECTOR))
    assert bundle.metrics["keypoints_pck"] > 0.6
    assert (bundle.metrics["ap50"], bundle.px) == (start.metrics["ap50"], start.px)
    assert bundle.training["note"] == "pedestrians"
    assert bundle.training["boxes"] == start.training, "who taught the boxes, not who taught keypoints last"
    for name, array in start.weights.items():
        if name.startswith("model."):
            np.testing.assert_allclose(bundle.weights[name].astype(array.dtype), array, rtol=1e-3, atol=1e-5)
    card = (tmp_path / "columns" / "README.md").read_text()
    assert f"{bundle.metrics['keypoints_pck']:.3f} lie within a fifth" in card


def test_a_training_that_was_cut_off_ends_as_a_quiet_one(
    labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet = train_detector([labelled], tmp_path / "quiet", options())
    learn = keypoints._Learner.learn

    def learn_one_epoch(learner: Any, views: Any, epoch: int) -> float:
        if epoch == 1:
            raise KeyboardInterrupt
        return learn(learner, views, epoch)

    monkeypatch.setattr(keypoints._Learner, "learn", learn_one_epoch)
    with pytest.raises(KeyboardInterrupt):
        train_detector([labelled], tmp_path / "cut", options())
    epochs = []

    def learn_and_tell(learner: Any, views: Any, epoch: int) -> float:
        epochs.append(epoch)
        return learn(learner, views, epoch)

    monkeypatch.setattr(keypoints._Learner, "learn", learn_and_tell)
    cut = train_detector([labelled], tmp_path / "cut", options())
    assert epochs == [1]
    for name, array in quiet.weights.items():
        np.testing.assert_allclose(cut.weights[name], array, rtol=1e-5, atol=1e-5)


def test_boxes_learn_further_below_the_head_that_was_there(labelled: Path, tmp_path: Path) -> None:
    """It reads the backbone alone, which keeps its weights; so it finds keypoints as before in what is found now."""
    start = load_detector_bundle(find_weights(EMBEDDED_DETECTOR))
    bundle = train_detector([labelled], tmp_path / "further", options(epochs=1, keypoint_epochs=0))
    for name, array in start.weights.items():
        if name.startswith(("keypoint_head.", "model.0.")):
            np.testing.assert_allclose(bundle.weights[name].astype(array.dtype), array, rtol=1e-3, atol=1e-5)
    of_head = [name for name in start.weights if name.startswith("model.17.") and "conv.weight" in name]
    assert any((bundle.weights[name].astype(np.float16) != start.weights[name]).any() for name in of_head)
    # A bundle is what the next training begins with: four steps do not lead far from it.
    for name, array in start.weights.items():
        if name.startswith("model.") and name.endswith("conv.weight"):
            before = array.astype(np.float32)
            assert np.linalg.norm(bundle.weights[name] - before) < 0.2 * np.linalg.norm(before), name
    assert bundle.architecture["keypoint_head"] == start.architecture["keypoint_head"]
    assert bundle.training["keypoints"] == start.training, "who taught the keypoints that it has"
    assert bundle.metrics["keypoints_pck"] < 0.3, (
        "measured on these pictures, whose keypoints are not where people have them"
    )
    detector = Detector(str(tmp_path / "further"), F32, ["person"], None, 0.0, 4)
    (found,) = detector.detect(np.full((1, 64, 64, 3), 90, np.uint8))
    assert found.keypoints is not None
    assert found.keypoints.shape == (4, 17, 3)


def test_a_head_is_not_measured_on_labels_of_other_keypoints() -> None:
    """Nor does it lose what it has learnt: with as many outputs as the labels have it would begin at random."""
    start = load_detector_bundle(find_weights(EMBEDDED_DETECTOR))
    options = KeypointOptions(px=64, epochs=0)
    assert keypoints.measure_keypoints(start, {"kpt_shape": [13, 3], "val": []}, options) is start


def test_nothing_to_learn_is_said_at_once(labelled: Path, tmp_path: Path) -> None:
    for changed in ({"start": ""}, {"keypoint_epochs": 0}):
        with pytest.raises(UsageError, match="name --start, and a data set with keypoints"):
            train_detector([labelled], tmp_path / "nothing", options(**changed))
    with pytest.raises(UsageError, match="'person_nano' can't learn keypoints"):
        train_detector([labelled], tmp_path / "nothing", options(start="person_nano"))
    write_picture(
        tmp_path / "boxes", "train", "a", np.zeros((64, 64, 3), np.uint8),
        People(np.array([[8, 8, 50, 60]], np.float32), np.zeros((1, 17, 3), np.float32)),
    )  # fmt: skip
    bare = describe_data_set(tmp_path / "boxes", "person", has_keypoints=True)
    with pytest.raises(UsageError, match="nobody has 4 labelled keypoints"):
        train_detector([bare], tmp_path / "nothing", options())
