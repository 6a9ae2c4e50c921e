from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import ultralytics
from ultralytics import YOLO
from ultralytics.utils.nms import non_max_suppression

from pipeline.errors import UsageError
from pipeline.vision.detector import Boxes, Detector, best_boxes
from pipeline.vision.runtime import Runtime, choose_runtime
from tests.overlaps import overlaps


@pytest.fixture(scope="module")
def bus() -> np.ndarray:
    return np.ascontiguousarray(cv2.imread(str(Path(ultralytics.__file__).parent / "assets" / "bus.jpg"))[:, :, ::-1])


def detector(
    weights: Path | str, classes: list[str], precision: str = "f32", most: int = 32, px: int = 640
) -> Detector:
    return Detector(str(weights), Runtime("cpu", precision), classes, px, 0.25, most)


def test_it_finds_what_ultralytics_finds(person_weights: Path, bus: np.ndarray) -> None:
    expected = YOLO(str(person_weights))(bus[..., ::-1], verbose=False, conf=0.5)[0].boxes
    for precision in ("f32", "bf16"):
        found = detector(person_weights, ["person", "bus"], precision).detect(bus[None])[0]
        sure = found.scores > 0.5
        assert sorted(found.class_ids[sure].tolist()) == sorted(expected.cls.int().tolist())
        best = overlaps(expected.xyxy.numpy(), found.xyxy[sure]).max(axis=1)
        assert best.min() > 0.9


@pytest.mark.parametrize("n_classes", [1, 3, 80])
@pytest.mark.parametrize(("max_boxes", "same_iou"), [(5, 0.7), (300, 0.7), (300, 0.5)])
def test_suppression_leaves_what_that_of_ultralytics_leaves(n_classes: int, max_boxes: int, same_iou: float) -> None:
    """Crowds of overlapping boxes, some of which are of classes that are not wanted."""
    rng = np.random.default_rng(n_classes)
    for _ in range(20):
        person = rng.integers(0, 8, 1260)
        centre = rng.uniform(40, 280, (2, 8))[:, person] + rng.normal(0, 4, (2, 1260))
        size = rng.uniform(30, 60, (2, 8))[:, person] + rng.normal(0, 3, (2, 1260))
        scores = rng.random((n_classes, 1260)) ** 8
        predictions = np.concatenate([centre, size, scores]).astype(np.float32)
        wanted = sorted(rng.choice(n_classes, min(n_classes, 2), replace=False).tolist())
        found = best_boxes(predictions, n_classes, wanted, 0.1, max_boxes, same_iou)
        (expected,) = non_max_suppression(
            torch.from_numpy(predictions)[None], conf_thres=0.1, iou_thres=same_iou, classes=wanted, max_det=max_boxes,
            nc=n_classes, max_time_img=60.0,
        )  # fmt: skip
        assert len(found) > 3
        np.testing.assert_allclose(found, expected.numpy(), atol=2e-3)


def test_classes_scores_and_limits(person_weights: Path, bus: np.ndarray) -> None:
    only_bus = detector(person_weights, ["bus"]).detect(bus[None])[0]
    assert len(only_bus.scores) == 1
    two = detector(person_weights, ["person"], most=2).detect(bus[None])[0]
    assert len(two.scores) == 2
    assert (np.diff(two.scores) <= 0).all()
    assert (two.xyxy >= 0).all()
    assert (two.xyxy[:, 2] <= bus.shape[1]).all()


def test_images_do_not_influence_each_other(person_weights: Path, bus: np.ndarray) -> None:
    blank = np.zeros_like(bus)
    find = detector(person_weights, ["person"])
    alone, mixed = find.detect(bus[None])[0], find.detect(np.stack([blank, bus, blank]))
    assert [len(boxes.scores) for boxes in mixed] == [0, len(alone.scores), 0]
    assert np.array_equal(mixed[1].xyxy, alone.xyxy)
    assert find.detect(bus[:0][None][:0]) == []


def test_weights_that_will_not_do_are_refused_by_name(person_weights: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"has no class 'unicorn'; it has person, bicycle"):
        detector(person_weights, ["person", "unicorn"])
    with pytest.raises(UsageError, match=r"/nowhere/yolo\.pt'?: no such file; put the file there"):
        detector("/nowhere/yolo.pt", ["person"])
    (tmp_path / "noise.pt").write_bytes(b"not weights at all")
    with pytest.raises(UsageError, match="not readable as Ultralytics weights"):
        detector(tmp_path / "noise.pt", ["person"])
    YOLO("yolo11n-cls.yaml").save(tmp_path / "classifier.pt")
    with pytest.raises(UsageError, match="'classify', which finds no boxes"):
        detector(tmp_path / "classifier.pt", ["person"])


def test_segmentation_weights_work_through_their_boxes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bus: np.ndarray
) -> None:
    monkeypatch.setenv("ACTIONLAKE_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(0)
    YOLO("yolo11n-seg.yaml").save(tmp_path / "segmenter.pt")
    find = Detector(str(tmp_path / "segmenter.pt"), choose_runtime("cpu"), ["0"], 320, 0.0, 5)
    found = find.detect(bus[None])[0]
    assert isinstance(found, Boxes)
    assert found.xyxy.shape[1] == 4
    assert set(found.class_ids.tolist()) <= {0}
