"""Read COCO's JSON of people and their keypoints, and write a data set in the layout of Ultralytics."""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pipeline.errors import UsageError
from pipeline.training.people import People, describe_data_set, draw_part, write_picture
from pipeline.vision.keypoints import KEYPOINTS

log = logging.getLogger(__name__)

_HELD_OUT = 0.05


def import_coco(labels: str | Path, images: str | Path, folder: str | Path, seed: int = 0) -> Path:
    """Write a data set of the people that a COCO file labels, and return the path of its `data.yaml`.

    Labels of crowds are left out. A picture that can't be read is left out with a warning.

    Args:
        labels: JSON with `images`, `annotations` and `categories`; the category `person` counts, or the only one.
        images: Folder of the pictures.
        folder: The target folder; created if missing.
        seed: Chooses the held-out pictures, together with their names.

    Raises:
        UsageError: The file is not in COCO's format, or an annotation has no box, a number of keypoints other than 17,
            or keypoints outside its picture.
    """
    source = Path(labels)
    try:
        record = json.loads(source.read_text(encoding="utf-8"))
        pictures = {picture["id"]: picture for picture in record["images"]}
        person = _person(record["categories"], source)
        of_picture = defaultdict(list)
        for annotation in record["annotations"]:
            if annotation["category_id"] == person and not annotation.get("iscrowd"):
                of_picture[annotation["image_id"]].append(annotation)
    except OSError as error:
        raise UsageError(f"{source}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{source}: not COCO's format ({type(error).__name__}: {error}); it needs images, annotations, categories"
        ) from error
    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    for number, picture in pictures.items():
        path = Path(images) / picture["file_name"]
        read = cv2.imread(str(path))
        if read is None:
            log.warning("left out: %s is missing, or no picture", path)
            continue
        image = np.ascontiguousarray(read[:, :, ::-1]).astype(np.uint8)
        people = _people(of_picture[number], image.shape[1], image.shape[0], source)
        _, part = draw_part(picture["file_name"], _HELD_OUT, seed)
        write_picture(root, part, f"{path.stem}-{number}", image, people)
    return describe_data_set(root, "person", has_keypoints=True)


def _person(categories: list[dict[str, Any]], source: Path) -> int:
    found = [category["id"] for category in categories if category["name"] == "person" or len(categories) == 1]
    if not found:
        raise UsageError(f"{source}: no category is called 'person'; rename the one that means people")
    number: int = found[0]
    return number


def _people(annotations: list[dict[str, Any]], width: int, height: int, source: Path) -> People:
    """Return the people in the annotations of one picture."""
    xyxy = np.zeros((len(annotations), 4), np.float32)
    keypoints = np.zeros((len(annotations), len(KEYPOINTS), 3), np.float32)
    for row, annotation in enumerate(annotations):
        where = f"{source}: annotation {annotation.get('id', row)}"
        box = np.array(annotation.get("bbox", ()), np.float32)
        if box.shape != (4,) or (box[2:] <= 0).any():
            raise UsageError(f"{where} has no box with a width and a height")
        xyxy[row] = np.concatenate([box[:2], box[:2] + box[2:]]).clip(0, [width, height] * 2)
        given = annotation.get("keypoints")
        if given is None:
            continue
        if len(given) != keypoints[row].size:
            raise UsageError(f"{where} has {len(given) / 3:g} keypoints; COCO's 17 are needed")
        points = np.array(given, np.float32).reshape(-1, 3)
        labelled = points[points[:, 2] > 0]
        if (labelled[:, :2] < 0).any() or (labelled[:, :2] > (width, height)).any():
            raise UsageError(f"{where} has keypoints outside of its picture, which has {width} x {height} pixels")
        keypoints[row] = points
    return People(xyxy, keypoints)
