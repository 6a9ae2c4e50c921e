"""Turned images keep their people in place, and a training is shown some."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ultralytics.utils.instance import Instances

from pipeline.training.people import NOT_LABELLED, People, describe_data_set, write_picture
from pipeline.training.turning import turn_label, turning_trainer
from tests.training.test_people import assert_on_the_people, painted


def label_of(image: np.ndarray, people: People) -> dict[str, Any]:
    """Return a picture as the data sets of Ultralytics give it."""
    size = np.array([image.shape[1], image.shape[0]], np.float32)
    low, high = people.xyxy[:, :2] / size, people.xyxy[:, 2:] / size
    keypoints = people.keypoints.copy()
    keypoints[..., :2] /= size
    instances = Instances(
        np.hstack([(low + high) / 2, high - low]),
        np.zeros((0, 1000, 2), np.float32),
        keypoints,
        "xywh",
        normalized=True,
    )
    return {"img": image, "instances": instances, "ori_shape": image.shape[:2], "resized_shape": image.shape[:2]}


def people_of(label: dict[str, Any]) -> People:
    """Return who is in it, in pixels; sides are rounded to the whole pixels at which they were painted."""
    height, width = label["img"].shape[:2]
    assert label["ori_shape"] == label["resized_shape"] == (height, width)
    label["instances"].convert_bbox("xyxy")
    xyxy = label["instances"].bboxes * np.float32([width, height] * 2)
    return People(xyxy.round(), label["instances"].keypoints * np.float32([width, height, 1]))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000), quarters=st.integers(-4, 4))
def test_a_turned_picture_keeps_its_people_in_place(seed: int, quarters: int) -> None:
    image, people = painted(4, np.random.default_rng(seed))
    people.keypoints[0, 5] = 0.0
    label = turn_label(label_of(image, people), quarters)
    around = people_of(label)
    assert around.keypoints[0, 5].tolist() == [0, 0, NOT_LABELLED]
    around.keypoints[0, 5] = around.keypoints[0, 6]
    assert_on_the_people(label["img"], around)
    label["instances"].convert_bbox("xywh")
    back = people_of(turn_label(label, -quarters))
    assert (label["img"] == image).all()
    np.testing.assert_allclose(back.xyxy, people.xyxy, atol=1e-3)
    np.testing.assert_allclose(back.keypoints, people.keypoints, atol=1e-3)


@pytest.mark.parametrize(("share", "mode", "upright"), [(0.0, "train", 1.0), (0.9, "train", 0.4), (0.9, "val", 1.0)])
def test_a_training_is_shown_turned_pictures(tmp_path: Path, share: float, mode: str, upright: float) -> None:
    """Of pictures that are wider than high, two turns of three make one that is higher than wide."""
    image, people = painted(3, np.random.default_rng(0))
    write_picture(tmp_path, "train", "wide", image, people)
    data = describe_data_set(tmp_path, "person", has_keypoints=True)
    trainer = turning_trainer(share, has_keypoints=True)(
        overrides={"data": str(data), "model": "yolo11n-pose.yaml", "imgsz": 64, "project": str(tmp_path)}
    )
    trainer.model = SimpleNamespace(stride=np.array([32.0]))
    dataset = trainer.build_dataset(str(tmp_path / "images" / "train"), mode, 4)
    shapes = [dataset.get_image_and_label(0)["img"].shape for _ in range(100)]
    assert np.mean([width > height for height, width, _ in shapes]) == pytest.approx(upright, abs=0.2 * (upright < 1))
