"""What an epoch draws: rows of one length, some sequences more often, half of them mirrored."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline import UsageError
from pipeline.motion.kinematics import box_motion
from pipeline.motion.poses import pose_motion
from pipeline.training.annotations import Annotation
from pipeline.training.dataset import Item, LabelledVideo
from pipeline.training.mirror import mirror_of
from pipeline.training.sequences import DrawOptions, LabelledSequence, count_batches, draw_batches
from pipeline.training.splits import divide, hold_out
from pipeline.vision.keypoints import MIRRORED

PLAIN = DrawOptions(batch_size=4, max_steps=64, min_crop=1.0, join=0.0)
ROWS = replace(PLAIN, row_steps=10)


def counted(lengths: list[int], draws: int = 1) -> list[LabelledSequence]:
    """Sequences whose steps tell which sequence and which step of it they are."""
    return [
        LabelledSequence(
            np.stack([np.full(n, number), np.arange(n)], axis=1).astype(np.float16), np.full(n, number), draws=draws
        )
        for number, n in enumerate(lengths)
    ]


def drawn(sequences: list[LabelledSequence], options: DrawOptions, seed: int = 0) -> list[list[LabelledSequence]]:
    batches = list(draw_batches(sequences, options, np.random.default_rng(seed)))
    assert len(batches) == count_batches(sequences, options)
    return batches


def test_rows_are_of_one_length_and_hold_every_step_in_order() -> None:
    """Laid end to end again they are whole sequences, one after the other; each inputs with its own labels."""
    lengths = np.array([3, 7, 12, 25, 33, 18, 18])
    batches = drawn(counted(list(lengths)), ROWS)
    assert len(batches) > 1
    rows = [row for batch in batches for row in batch]
    assert {len(batch) for batch in batches} == {4}
    assert {row.inputs.shape for row in rows} == {(10, 2)}
    steps = np.concatenate([row.inputs for row in rows])
    assert (steps[:, 0] == np.concatenate([row.label_ids for row in rows])).all()
    starts = np.flatnonzero(np.diff(steps[:, 0], prepend=-1))
    assert (steps[starts, 1] == 0).all()
    ends = steps[starts[1:] - 1].astype(int)
    assert (ends[:, 1] == lengths[ends[:, 0]] - 1).all(), "also from one batch to the next"
    goes_on = np.setdiff1d(np.arange(len(steps)), starts)
    assert (steps[goes_on, 1] == steps[goes_on - 1, 1] + 1).all()
    assert len(set(steps[:, 0])) > 4


@pytest.mark.parametrize("options", [PLAIN, ROWS])
def test_what_is_to_be_drawn_more_often_is(options: DrawOptions) -> None:
    few, many = counted([20] * 6), counted([20] * 2)
    many = [replace(each, label_ids=np.full(20, 9), draws=6) for each in many]
    label_ids = np.concatenate([each.label_ids for batch in drawn([*few, *many], options) for each in batch])
    assert (label_ids == 9).mean() == pytest.approx(2 / 3, abs=0.1)
    assert len(label_ids) == pytest.approx(20 * 18, abs=40)


def test_a_mirrored_sequence_is_that_of_the_mirrored_picture() -> None:
    rng = np.random.default_rng(0)
    n, width = 12, 640
    time_s = np.arange(n) / 7.5
    low = rng.uniform(50, 250, (n, 2))
    xyxy = np.hstack([low, low + rng.uniform(40, 200, (n, 2))]).astype(np.float32)
    keypoints = rng.uniform(0, 300, (n, 17, 3)).astype(np.float32)
    keypoints[:, :, 2] = rng.uniform(0, 1, (n, 17))
    mirrored_xyxy, mirrored_keypoints = xyxy[:, [2, 1, 0, 3]].copy(), keypoints[:, MIRRORED].copy()
    mirrored_xyxy[:, 0::2] = width - mirrored_xyxy[:, 0::2]
    mirrored_keypoints[:, :, 0] = width - mirrored_keypoints[:, :, 0]

    def inputs(boxes: np.ndarray, points: np.ndarray) -> np.ndarray:
        return np.hstack([pose_motion(time_s, boxes, points), box_motion(time_s, boxes)]).astype(np.float16)

    found = mirror_of(("pose", "box")).of(inputs(xyxy, keypoints))
    assert np.allclose(found, inputs(mirrored_xyxy, mirrored_keypoints), atol=2e-2)
    assert not np.allclose(found, inputs(xyxy, keypoints), atol=0.5)


def test_about_half_of_the_crops_are_mirrored() -> None:
    sequences = [LabelledSequence(np.ones((10, 9), np.float16), np.zeros(10, int)) for _ in range(200)]
    options = replace(PLAIN, mirror=mirror_of(("box",)))
    first = [float(each.inputs[0, 0]) for batch in drawn(sequences, options) for each in batch]
    assert set(first) == {-1.0, 1.0}
    assert 0.35 < np.mean(np.array(first) < 0) < 0.65


def test_what_a_cnn_says_of_a_mirrored_picture_is_not_known() -> None:
    with pytest.raises(UsageError, match="needs inputs box and pose alone; here are crop, box"):
        mirror_of(("crop", "box"))


def test_what_has_no_spans_is_learnt_from_in_every_split() -> None:
    """Without that, an error: no first span tells its group."""
    views = LabelledVideo("skeletons.npz", tuple(counted([5])), ())
    videos = [
        LabelledVideo(f"{n}", (), (Item(Annotation(f"{n}", "a", splits={"split": part}), 0, 0, 5),))
        for n, part in enumerate(["train", "test", "val", "train"])
    ]
    for name in ("split", "held-out"):
        parts = divide([*videos, views], name)
        assert views in parts.train
        assert views not in [*parts.val, *parts.test]
    assert views in hold_out([*videos, views])[0]
