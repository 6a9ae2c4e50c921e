"""Labels of people stay on the people, however a picture is cut, and come back from the files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import UsageError
from pipeline.training.coco import import_coco
from pipeline.training.people import HIDDEN, VISIBLE, People, part_of, write_picture
from pipeline.vision.keypoints import KEYPOINTS, MIRRORED


def painted(n: int, rng: np.random.Generator) -> tuple[np.ndarray, People]:
    """Return a picture in which the box of each person has a colour of its own, and keypoints within it."""
    image = np.zeros((360, 480, 3), np.uint8)
    corners = rng.integers(0, [400, 280], (n, 2))
    sides = rng.integers(20, 80, (n, 2))
    xyxy = np.hstack([corners, corners + sides]).astype(np.float32)
    keypoints = np.full((n, len(KEYPOINTS), 3), VISIBLE, np.float32)
    for number, (left, top, right, bottom) in enumerate(xyxy.astype(int)):
        image[top:bottom, left:right] = number + 1
        keypoints[number, :, 0] = rng.uniform(left + 1, right - 1, len(KEYPOINTS))
        keypoints[number, :, 1] = rng.uniform(top + 1, bottom - 1, len(KEYPOINTS))
    return image, People(xyxy, keypoints)


def assert_on_the_people(image: np.ndarray, people: People) -> None:
    """A later box may lie over an earlier one, so a place has the colour of its person or of a later one."""
    height, width = image.shape[:2]
    for box, keypoints in zip(people.xyxy.astype(int), people.keypoints, strict=True):
        left, top, right, bottom = box
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        number = image[top:bottom, left:right].min()
        assert number >= 1
        for x, y, _ in keypoints:
            if 0 <= x < width and 0 <= y < height:
                assert image[int(y), int(x), 0] >= number


@settings(max_examples=50, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000), n_boxes=st.integers(0, 6))
def test_a_part_of_a_picture_keeps_its_people_in_place(seed: int, n_boxes: int) -> None:
    rng = np.random.default_rng(seed)
    part, kept = part_of(*painted(n_boxes, rng), rng)
    assert part.shape[0] <= 270
    assert_on_the_people(part, kept)


def test_left_and_right_change_places_in_a_mirror() -> None:
    assert KEYPOINTS[MIRRORED[KEYPOINTS.index("left_wrist")]] == "right_wrist"
    assert [MIRRORED[number] for number in MIRRORED] == list(range(len(KEYPOINTS)))
    assert MIRRORED[0] == 0, "the nose is the nose"


def test_keypoints_outside_of_the_picture_are_not_labels(tmp_path: Path) -> None:
    keypoints = np.zeros((1, 17, 3), np.float32)
    keypoints[0, :3] = [(10, 20, VISIBLE), (30, 20, HIDDEN), (-5, 20, VISIBLE)]
    write_picture(
        tmp_path, "train", "a", np.zeros((40, 40, 3), np.uint8), People(np.float32([[0, 0, 40, 40]]), keypoints)
    )
    row = [float(value) for value in (tmp_path / "labels" / "train" / "a.txt").read_text().split()]
    assert row[:5] == [0, 0.5, 0.5, 1, 1]
    assert row[5:14] == [0.25, 0.5, 2, 0.75, 0.5, 1, 0, 0, 0]
    assert not any(row[14:])


def coco(tmp_path: Path, **changes: Any) -> Path:
    """Write two pictures, and a file that labels a person in one of them."""
    for name in ("a.jpg", "b.jpg"):
        cv2.imwrite(str(tmp_path / name), np.zeros((100, 200, 3), np.uint8))
    annotation = {"id": 7, "image_id": 1, "category_id": 3, "bbox": [20, 10, 40, 80], "keypoints": [30, 40, 2] * 17}
    record = {
        "images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}],
        "categories": [{"id": 1, "name": "dog"}, {"id": 3, "name": "person"}],
        "annotations": [annotation | changes, annotation | {"id": 8, "iscrowd": 1}, annotation | {"category_id": 1}],
    }
    path = tmp_path / "people.json"
    path.write_text(json.dumps(record))
    return path


def test_labels_of_ones_own_become_a_data_set(tmp_path: Path) -> None:
    data = import_coco(coco(tmp_path), tmp_path, tmp_path / "data")
    record = yaml.safe_load(data.read_text())
    assert (record["names"], record["kpt_shape"], record["flip_idx"]) == ({0: "person"}, [17, 3], MIRRORED)
    labels = {path.name: path.read_text().split() for path in (tmp_path / "data" / "labels").rglob("*.txt")}
    assert labels.keys() == {"a-1.txt", "b-2.txt"}
    assert [float(value) for value in labels["a-1.txt"]] == [0, 0.2, 0.5, 0.2, 0.8, *[0.15, 0.4, 2] * 17]
    assert not labels["b-2.txt"], "a picture without people teaches, too"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"keypoints": [1, 2, 2] * 14}, "annotation 7 has 14 keypoints"),
        ({"keypoints": [300, 40, 2] * 17}, "annotation 7 has keypoints outside of its picture, which has 200 x 100"),
        ({"bbox": [0, 0, 0, 10]}, "annotation 7 has no box"),
    ],
)
def test_labels_that_make_no_sense_are_told_by_their_number(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        import_coco(coco(tmp_path, **changes), tmp_path, tmp_path / "data")


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"videos": []}')
    with pytest.raises(UsageError, match="not COCO's format"):
        import_coco(tmp_path / "a.json", tmp_path, tmp_path / "data")
