"""What a packed model looks at: the pictures that a job samples, whatever the file; and of a camera the newest."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

import pipeline
from pipeline.edge.footage import Footage, _Frame, pictures
from tests.synthetic import RECIPES, make_video

H264 = next(recipe for recipe in RECIPES if recipe.name.startswith("h264") and recipe.name.endswith(".mp4"))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"rotation_deg": 90},
        {"rotation_deg": 180},
        {"pixel_aspect": Fraction(2)},
        {"fps": 5, "n_frames": 20},
        {"pts": [0, 1, 2, 3, 4, 40, 41, 42, 43, 44], "time_base": Fraction(1, 20), "n_frames": 10},
    ],
)
@pytest.mark.parametrize("rate", [7.5, 12.0])
def test_it_shows_what_a_job_samples(tmp_path: Path, options: dict[str, object], rate: float) -> None:
    path = make_video(tmp_path / "a.mp4", H264, **options)  # type: ignore[arg-type]
    expected = list(pipeline.decode(path, fps=rate, longest_px=80))
    found = list(pictures(str(path), rate, 80))
    assert [(each.step, each.n_steps) for each in found[:-1]] == [(each.step, each.n_steps) for each in expected[:-1]]
    assert found[-1].step == expected[-1].step
    for ours, of_job in zip(found, expected, strict=True):
        assert ours.time_s == pytest.approx(of_job.time_s, abs=1e-6)
        assert ours.image.shape == of_job.image.shape
        assert np.abs(ours.image.astype(int) - of_job.image).max() <= 1


def test_damage_costs_what_is_damaged(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", H264, n_frames=90)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 200] = bytes(200)
    path.write_bytes(data)
    found = list(pictures(str(path), 10.0, 80))
    assert found[0].time_s == 0
    assert found[-1].time_s > 2.5


def frames(*times_s: float) -> Iterator[_Frame]:
    for time_s in times_s:
        yield _Frame(time_s, (8, 8), lambda width, height: np.zeros((height, width, 3), np.uint8))


def test_a_clock_that_is_set_back_goes_on() -> None:
    """Three seconds from ten on, then three of another recording from zero on; one frame came out of order."""
    first = [10 + step / 10 for step in range(30)]
    first[7], first[8] = first[8], first[7]
    source = frames(*first, *(step / 10 for step in range(30)))
    found = list(Footage(source, 10.0, 10.0, 8, is_live=False))
    assert [each.step for each in found] == [step for step in range(60) if step != 7]
    assert sum(each.n_steps for each in found) == 60
    assert found[-1].time_s == pytest.approx(5.9)


def test_what_comes_while_nobody_looks_is_left_out() -> None:
    """A camera of a thousand frames; whoever looks at them takes the newest each time."""
    given, looked = threading.Event(), threading.Event()

    def source() -> Iterator[_Frame]:
        yield from frames(0.0)
        looked.wait(10)
        yield from frames(*(step / 10 for step in range(1, 1000)))
        given.set()

    found = []
    for picture in Footage(source(), 10.0, 10.0, 8, is_live=True):
        found.append(picture.step)
        looked.set()
        given.wait(10)
    assert found[0] == 0
    assert found[-1] == 999
    assert len(found) <= 3


def test_a_camera_is_stopped_from_outside() -> None:
    stop = threading.Event()

    def source() -> Iterator[_Frame]:
        yield from frames(0.0, 0.2)
        while not stop.is_set():
            stop.wait(0.01)

    began = time.time()
    footage = Footage(source(), 10.0, 10.0, 8, is_live=True, stop=stop)
    for _ in footage:
        stop.set()
    assert began <= footage.began_at <= time.time()


@pytest.mark.parametrize("name", ["gone.mp4", "empty.mp4", "text.mp4"])
def test_what_is_no_video_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(OSError, match=name):
        list(pictures(str(tmp_path / name), 10.0, 80))
