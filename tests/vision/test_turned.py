"""People who lie are found in a turned picture, in the right place, and once; keypoints lie on them."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.errors import UsageError
from pipeline.vision.detector import Boxes, Detector
from pipeline.vision.keypoints import KEYPOINTS
from pipeline.vision.landmarks import LandmarkNetwork
from pipeline.vision.network import Image
from pipeline.vision.runtime import Runtime
from pipeline.vision.turned import QUARTERS, detect_turned, turn_boxes, turn_image

RUNTIME = Runtime("cpu", "f32", 2)


class FindsBlocks:
    """Finds bright blocks that are higher than wide, as a detector of people who stand does."""

    def detect(self, images: np.ndarray) -> list[Boxes]:
        found = []
        for image in images:
            assert image.flags.c_contiguous
            rows, columns = np.nonzero(image[..., 0])
            box = np.float32([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]])
            upright = box[:, 3] - box[:, 1] > box[:, 2] - box[:, 0]
            found.append(Boxes(box[upright], np.float32([0.9])[upright], np.int32([0])[upright]))
        return found


@pytest.mark.parametrize("box", [(10, 20, 20, 80), (10, 20, 90, 40)])
def test_who_lies_is_found_in_place_and_once(box: tuple[int, int, int, int]) -> None:
    image = np.zeros((100, 160, 3), np.uint8)
    image[box[1] : box[3], box[0] : box[2]] = 255
    found = detect_turned(FindsBlocks(), image)
    assert found.boxes.xyxy.tolist() == [list(box)]
    assert found.quarters.tolist() == ([0] if box[3] - box[1] > box[2] - box[0] else [1])
    assert not len(detect_turned(FindsBlocks(), turn_image(image, 1), [int(found.quarters[0])]).quarters)


@pytest.mark.parametrize("quarters", QUARTERS)
def test_keypoints_lie_on_a_person_in_whatever_orientation(data_dir: Path, person_weights: Path, quarters: int) -> None:
    detector = Detector(str(person_weights), RUNTIME, ["person"], 640, 0.5, 10)
    landmarks = LandmarkNetwork(person_weights.with_name("pose_landmark_full.tflite"), RUNTIME)
    with av.open(str(data_dir / "gmdcsa24" / "clips" / "s1_fall_14.mp4")) as container:
        image: Image = next(container.decode(video=0)).to_ndarray(format="rgb24")
    height, width = image.shape[:2]
    upright = detector.detect(image[None])[0].xyxy[0]
    there, trust = landmarks.keypoints(image, upright)
    assert trust > 0.5
    shoulder, ankle = KEYPOINTS.index("left_shoulder"), KEYPOINTS.index("left_ankle")
    assert there[shoulder, 1] < there[ankle, 1] - 0.4 * (upright[3] - upright[1])
    box = turn_boxes(upright[None], quarters, width, height)[0]
    here, trust = landmarks.keypoints(turn_image(image, quarters), box, -quarters)
    back = turn_boxes(np.tile(here[:, :2], 2), -quarters, *((width, height) if quarters % 2 == 0 else (height, width)))
    distance = np.linalg.norm(back[:, :2] - there[:, :2], axis=1)
    assert trust > 0.5
    assert np.median(distance) < 0.03 * (upright[3] - upright[1])


def test_another_network_is_refused(person_weights: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not BlazePose's network"):
        LandmarkNetwork(person_weights.with_name("yolox_nano.onnx"), RUNTIME)
    (tmp_path / "a.tflite").write_bytes(b"nothing")
    with pytest.raises(UsageError, match=r"a\.tflite: not readable"):
        LandmarkNetwork(tmp_path / "a.tflite", RUNTIME)
