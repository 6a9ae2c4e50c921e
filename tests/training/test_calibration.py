"""Scores that mean what they say, and who is held out for that."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pipeline.activity.model import ActivityModel
from pipeline.activity.segments import SegmentOptions
from pipeline.activity.spec import ModelSpec
from pipeline.errors import UsageError
from pipeline.training.annotations import Annotation
from pipeline.training.calibration import answers, fit_temperature, temperature_by_others, with_temperature
from pipeline.training.dataset import Item, LabelledVideo
from pipeline.training.sequences import LabelledSequence
from pipeline.training.splits import HELD_OUT, divide, hold_out
from pipeline.training.validation import means_of_splits, validate


def answers_first_label(logit: float) -> ActivityModel:
    """A model that gives the first of two labels a logit, and the other 0, whatever it sees."""
    model = ActivityModel(ModelSpec(("frame",), 4, 2, "majority")).eval()
    with torch.no_grad():
        next(model.parameters()).copy_(torch.tensor([logit, 0.0]))
    return model


def video(number: int, label_id: int, group: str = "", **splits: str) -> LabelledVideo:
    annotation = Annotation(f"{number}.mp4", "ab"[label_id], splits=splits, group=group)
    sequence = LabelledSequence(np.zeros((6, 4), np.float16), np.full(6, label_id))
    return LabelledVideo(annotation.video, (sequence,), (Item(annotation, label_id, 0, 6),))


def test_the_temperature_makes_the_score_the_share_that_is_right() -> None:
    """Eight of ten are of the first label, so its score should be 0.8: a logit of ln 4 instead of 3."""
    model, videos = answers_first_label(3.0), [video(i, int(i >= 8)) for i in range(10)]
    before = validate(model, videos, ("a", "b"), 15.0, SegmentOptions())
    assert before["calibration_error"] == pytest.approx(1 / (1 + math.exp(-3)) - 0.8, abs=1e-4)
    temperature = fit_temperature([answers(model, videos)])
    assert temperature == pytest.approx(3 / math.log(4), rel=1e-3)
    after = validate(with_temperature(model, temperature), videos, ("a", "b"), 15.0, SegmentOptions())
    assert after["calibration_error"] < 0.001
    assert after["accuracy"] == before["accuracy"] == 0.8
    # What it is now makes no difference to what is found.
    assert fit_temperature([answers(with_temperature(model, 2.5), videos)]) == pytest.approx(temperature, rel=1e-3)


def test_without_anybody_seen_nothing_is_changed() -> None:
    unseen = LabelledVideo("v", (), video(0, 0).items)
    assert fit_temperature([answers(answers_first_label(3.0), [unseen])]) == 1.0


def test_each_model_weighs_as_much_as_any_other() -> None:
    """One is asked ten times, the other twice: eight of ten right and one of two make 0.65, not three of four."""
    model = answers_first_label(3.0)
    asked = [[video(i, int(i >= 8)) for i in range(10)], [video(i, i) for i in range(2)]]
    temperature = fit_temperature([answers(model, videos) for videos in asked])
    assert 1 / (1 + math.exp(-3 / temperature)) == pytest.approx(0.65, abs=1e-3)


def test_a_split_is_calibrated_by_what_others_leave_out() -> None:
    """Not by its own answers; and a video that both leave out is left out of the calibration."""
    model = answers_first_label(3.0)
    own, shared = [video(20 + i, 1) for i in range(10)], [video(i, int(i >= 8)) for i in range(10)]
    of_own, of_shared = answers(model, own), answers(model, shared)
    right = pytest.approx(3 / math.log(4), rel=1e-3)
    assert temperature_by_others("a", {"a": of_own, "b": of_shared}) == right
    assert temperature_by_others("a", {"a": of_own, "b": [*of_shared, *of_own]}) == right


def test_calibration_is_measured_over_all_splits_together() -> None:
    """One split is ten points too sure, another ten points not sure enough, in one bin: together they are right."""
    model = answers_first_label(math.log(4))
    results = [
        validate(model, [video(i, int(i >= n_right)) for i in range(10)], ("a", "b"), 15.0, SegmentOptions())
        for n_right in (7, 9)
    ]
    assert [result["calibration_error"] for result in results] == [pytest.approx(0.1), pytest.approx(0.1)]
    means = means_of_splits(results)
    assert means["calibration_error"] == pytest.approx(0.0, abs=1e-6)
    assert means["accuracy"] == pytest.approx(0.8)


def test_a_group_is_never_divided() -> None:
    data = [video(i, 0, group=f"person {i % 12}") for i in range(60)]
    parts = divide(data, HELD_OUT)
    for kept, held_out in (hold_out(data), (parts.train, parts.test)):
        groups = [{each.items[0].annotation.group for each in part} for part in (kept, held_out)]
        assert groups[0] and groups[1]  # noqa: PT018
        assert not groups[0] & groups[1]
        assert len(kept) + len(held_out) == 60


def test_parts_of_a_split() -> None:
    data = [video(i, 0, split=part) for i, part in enumerate(["train", "val", "test", "", "train"])]
    parts = divide(data, "split")
    assert [[each.video for each in part] for part in (parts.train, parts.val, parts.test)] == [
        ["0.mp4", "4.mp4"], ["1.mp4"], ["2.mp4"],
    ]  # fmt: skip
    # Without a test part, it is measured on what else is held out.
    parts = divide(data[:2], "split")
    assert [[each.video for each in part] for part in (parts.train, parts.val, parts.test)] == [
        ["0.mp4"],
        [],
        ["1.mp4"],
    ]
    both = LabelledVideo("x.mp4", (), (*video(0, 0, split="train").items, *video(0, 0, split="test").items))
    with pytest.raises(UsageError, match=r"0\.mp4: split is both test and train"):
        divide([both], "split")
