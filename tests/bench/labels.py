"""A cache of labels of pictures. The key is a hash of the picture's pixels.

Strong networks need most of an hour on two cores for the pictures of `tests.bench.people`. Their labels are kept here,
so that a figure is measured against the same labels everywhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pipeline.training.distill import Teacher
from pipeline.training.people import Image, People
from pipeline.vision.keypoints import KEYPOINTS

KEPT = Path(__file__).with_name("people_labels.npz")
# Places are kept in so many steps a pixel.
_STEPS = 16
_NUMBERS = 4 + 3 * len(KEYPOINTS)


def key_of(image: Image, by: str = "") -> bytes:
    """Return what a picture's labels are found again by: what it shows, and who labelled it if there are several."""
    return hashlib.sha1(image.tobytes() + by.encode()).digest()[:8]


class Labels:
    """The people of pictures, by picture."""

    def __init__(self, path: Path = KEPT) -> None:
        """Read what is kept, if anything."""
        self._path = path
        self._people: dict[bytes, np.ndarray] = {}
        if path.exists():
            with np.load(path) as kept:
                rows = np.split(kept["people"], np.cumsum(kept["counts"])[:-1])
                self._people = {key.tobytes(): found for key, found in zip(kept["pictures"], rows, strict=True)}

    def of(self, image: Image, make: Callable[[], People], by: str = "") -> People:
        """Return the people of a picture `uint8 [H, W, 3]`, and let them be made if they are not kept."""
        key = key_of(image, by)
        if key not in self._people:
            people = make()
            places = np.concatenate([people.xyxy.reshape(-1, 2, 2), people.keypoints[..., :2]], axis=1) * _STEPS
            numbers = [places.reshape(len(places), _NUMBERS - len(KEYPOINTS)).round(), people.keypoints[..., 2]]
            self._people[key] = np.hstack(numbers).clip(-(2**15), 2**15 - 1).astype(np.int16)
        found = self._people[key].astype(np.float32)
        places, seen = np.split(found, [_NUMBERS - len(KEYPOINTS)], axis=1)
        places = places.reshape(len(found), 2 + len(KEYPOINTS), 2) / _STEPS
        return People(places[:, :2].reshape(-1, 4), np.concatenate([places[:, 2:], seen[..., None]], axis=2))

    def save(self) -> None:
        """Keep them."""
        np.savez_compressed(
            self._path,
            pictures=np.array([np.frombuffer(key, np.uint8) for key in self._people]),
            counts=np.array([len(people) for people in self._people.values()], np.uint16),
            people=np.concatenate(list(self._people.values())),
        )


class RememberingTeacher(Teacher):
    """A teacher that is asked about no picture twice."""

    def __init__(self, teacher: Teacher, labels: Labels, name: str = "") -> None:
        """Take the teacher, what it said before, and its name if there are others."""
        self._teacher, self._labels, self._name = teacher, labels, name

    @property
    def n_keypoints(self) -> int:
        """Keypoints of a person."""
        return self._teacher.n_keypoints

    def label(self, image: Image) -> People:
        """Return who is in a picture."""
        return self._labels.of(image, lambda: self._teacher.label(image), self._name)
