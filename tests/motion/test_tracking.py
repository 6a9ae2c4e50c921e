from __future__ import annotations

import numpy as np
import pytest

from pipeline.motion.tracking import NO_TRACK, TrackOptions, track_video
from pipeline.vision.detector import Boxes

FPS = 15.0


def boxes(*people: tuple[float, float]) -> Boxes:
    xyxy = np.array([[x, y, x + 40, y + 100] for x, y in people], np.float32).reshape(-1, 4)
    return Boxes(xyxy, np.full(len(people), 0.9, np.float32), np.zeros(len(people), np.int32))


def walk(n: int, start: int = 0) -> list[tuple[float, Boxes]]:
    """Two people: one walks to the right, one to the left, on separate paths."""
    return [((start + i) / FPS, boxes((10 + 4 * i, 50), (600 - 4 * i, 300))) for i in range(n)]


def test_each_person_keeps_one_id() -> None:
    ids = np.stack(list(track_video(walk(60), FPS)))
    assert len(np.unique(ids[:, 0])) == len(np.unique(ids[:, 1])) == 1
    assert ids[0, 0] != ids[0, 1]


def test_a_new_video_starts_without_memory() -> None:
    first = np.stack(list(track_video(walk(30), FPS)))
    assert np.array_equal(first, np.stack(list(track_video(walk(30), FPS))))
    assert first.min() == 1


def test_a_short_absence_is_bridged() -> None:
    frames = walk(60)
    for i in range(25, 35):
        frames[i] = (frames[i][0], boxes())
    ids = list(track_video(frames, FPS))
    assert np.array_equal(ids[20], ids[50])


def test_nobody_is_followed_across_a_hole_and_ids_stay_unique() -> None:
    hole = int((TrackOptions().gap_s + 1) * FPS)
    ids = list(track_video([*walk(20), *walk(20, start=20 + hole)], FPS))
    assert not set(ids[19].tolist()) & set(ids[-1].tolist())
    assert NO_TRACK not in ids[-1].tolist()


def test_weak_boxes_start_no_track() -> None:
    weak = Boxes(np.array([[0, 0, 40, 100]], np.float32), np.array([0.12], np.float32), np.zeros(1, np.int32))
    assert all(ids.tolist() == [NO_TRACK] for ids in track_video([(i / FPS, weak) for i in range(10)], FPS))


def test_classes_are_followed_apart() -> None:
    """A bicycle that appears where a person was does not take over the person's id."""

    def one(class_id: int) -> Boxes:
        return Boxes(
            np.array([[10, 50, 50, 150]], np.float32), np.array([0.9], np.float32), np.array([class_id], np.int32)
        )

    ids = [i.tolist() for i in track_video([(n / FPS, one(0 if n < 10 else 1)) for n in range(20)], FPS)]
    assert ids[9] == [1]
    assert ids[-1] == [2]


def test_how_long_an_absence_is_bridged_is_an_option() -> None:
    frames = walk(60)
    for i in range(20, 40):
        frames[i] = (frames[i][0], boxes())
    forgetful = list(track_video(frames, FPS, TrackOptions(gap_s=0.5)))
    patient = list(track_video(frames, FPS, TrackOptions(gap_s=5.0)))
    assert not set(forgetful[10].tolist()) & set(forgetful[-1].tolist())
    assert np.array_equal(patient[10], patient[-1])


def shapes(*people: tuple[float, float, float, float]) -> Boxes:
    """Return people by the place of their centre, width and height."""
    xyxy = np.array([[x - w / 2, y - h / 2, x + w / 2, y + h / 2] for x, y, w, h in people], np.float32).reshape(-1, 4)
    return Boxes(xyxy, np.full(len(people), 0.9, np.float32), np.zeros(len(people), np.int32))


STANDS, LIES = (300, 200, 30, 150), (320, 240, 160, 30)


def fall(unseen: int, *others: tuple[float, float, float, float], lies: tuple = LIES) -> list[list[int]]:
    """Return the ids of somebody who stands, is not seen for so many frames, and lies; others stand there all along."""
    states = [(STANDS,)] * 15 + [()] * unseen + [(lies,)] * 15
    frames = [(n / FPS, shapes(*state, *others)) for n, state in enumerate(states)]
    return [ids.tolist() for ids in track_video(frames, FPS)]


@pytest.mark.parametrize("unseen", [0, 1, 7])
def test_somebody_who_falls_stays_the_same(unseen: int) -> None:
    ids = fall(unseen)
    assert ids[0] == ids[-1] == [1]


def test_somebody_who_appears_later_or_elsewhere_is_somebody_else() -> None:
    assert fall(unseen=20)[-1] == [2]
    assert fall(unseen=1, lies=(420, 240, 160, 30))[-1] == [2]


def test_nobody_takes_an_id_that_may_be_that_of_another() -> None:
    """One stands so near that a new box may be of either; or two were lost at one place."""
    assert fall(1, (325, 200, 30, 150))[-1] == [3, 2]
    states = [(STANDS, (325, 205, 30, 150))] * 15 + [(LIES,)] * 15
    ids = [ids.tolist() for ids in track_video([(n / FPS, shapes(*state)) for n, state in enumerate(states)], FPS)]
    assert ids[0] == [1, 2]
    assert ids[-1] == [3]


def test_of_two_who_appear_where_one_was_lost_neither_is_taken_for_that_one() -> None:
    states = [(STANDS,)] * 15 + [()] + [(LIES, (300, 260, 150, 28))] * 15
    ids = [ids.tolist() for ids in track_video([(n / FPS, shapes(*state)) for n, state in enumerate(states)], FPS)]
    assert not {1} & set(ids[-1])


def test_who_comes_back_upright_does_not_share_an_id() -> None:
    """What carried the id before was taken over; ByteTrack still knows it, and finds it again beside the other."""
    states = [(STANDS,)] * 15 + [(LIES,)] * 10 + [(LIES, STANDS)] * 10
    ids = [ids.tolist() for ids in track_video([(n / FPS, shapes(*state)) for n, state in enumerate(states)], FPS)]
    assert ids[20] == [1]
    assert ids[-1] == [1, 2]


def test_who_gets_up_again_keeps_the_id() -> None:
    """ByteTrack finds the track of before again, after the one that took over its id was lost in turn."""
    states = [(STANDS,)] * 15 + [(LIES,)] * 4 + [()] * 12 + [(STANDS,)] * 4
    ids = [ids.tolist() for ids in track_video([(n / FPS, shapes(*state)) for n, state in enumerate(states)], FPS)]
    assert ids[-1] == [1]


@pytest.mark.parametrize("first", [0, 7, 23, 41])
def test_the_last_bits_of_times_do_not_decide_who_is_the_same(first: int) -> None:
    """A second lies between the last look and the one that makes a new track sure."""
    states = [(STANDS,)] * 15 + [()] * (round(FPS) - 2) + [(LIES,)] * 15
    frames = [((first + n) / FPS, shapes(*state)) for n, state in enumerate(states)]
    assert list(track_video(frames, FPS))[-1].tolist() == [1]


def weaker(boxes: Boxes, score: float) -> Boxes:
    return Boxes(boxes.xyxy, np.full(len(boxes.scores), score, np.float32), boxes.class_ids)


def test_somebody_who_lies_still_and_is_hardly_seen_is_followed_on() -> None:
    """A weak box at the place where a person was lost is that person, however long it lies there."""
    lies = [shapes(LIES)] * 15 + [shapes()] * 8 + [weaker(shapes((330, 244, 150, 34)), 0.15)] * 90
    ids = [ids.tolist() for ids in track_video([(n / FPS, boxes) for n, boxes in enumerate(lies)], FPS)]
    assert ids[0] == [1]
    assert ids[23:] == [[1]] * 90


def test_a_weak_box_elsewhere_or_later_is_nobody() -> None:
    late = round(FPS * (TrackOptions().gap_s + 0.2))
    for unseen, place in ((8, (420, 240, 160, 30)), (late, LIES)):
        states = [shapes(LIES)] * 15 + [shapes()] * unseen + [weaker(shapes(place), 0.15)] * 5
        ids = [ids.tolist() for ids in track_video([(n / FPS, boxes) for n, boxes in enumerate(states)], FPS)]
        assert ids[-1] == [NO_TRACK]


def test_each_of_two_who_lie_keeps_the_own_id() -> None:
    other = (330, 262, 160, 30)
    states = [shapes(LIES, other)] * 15 + [shapes()] + [weaker(shapes(other, LIES), 0.15)] * 5
    ids = [ids.tolist() for ids in track_video([(n / FPS, boxes) for n, boxes in enumerate(states)], FPS)]
    assert ids[0] == [1, 2]
    assert ids[-1] == [2, 1]


def test_of_two_weak_boxes_where_one_was_lost_the_nearer_is_followed() -> None:
    states = [shapes(LIES)] * 15 + [shapes()] + [weaker(shapes((345, 246, 160, 30), LIES), 0.15)] * 5
    ids = [ids.tolist() for ids in track_video([(n / FPS, boxes) for n, boxes in enumerate(states)], FPS)]
    assert ids[-1] == [NO_TRACK, 1]


@pytest.mark.parametrize(("unseen", "number"), [(22, 1), (32, 2)])
def test_who_is_seen_again_at_the_same_place_is_the_same_for_a_while(unseen: int, number: int) -> None:
    """ByteTrack expects the person further on. The place decides, for as long as somebody may be out of sight."""
    walks = [shapes((100 + 6 * n, 200, 30, 150)) for n in range(15)]
    gone, back = [shapes()] * unseen, [shapes((184, 200, 30, 150))] * 5
    ids = [ids.tolist() for ids in track_video([(n / FPS, boxes) for n, boxes in enumerate(walks + gone + back)], FPS)]
    assert ids[14] == [1]
    assert ids[-4:] == [[number]] * 4


def test_a_box_with_next_to_no_score_is_nobody() -> None:
    states = [shapes(LIES)] * 15 + [shapes()] * 2 + [weaker(shapes(LIES), 0.05)] * 5
    ids = [ids.tolist() for ids in track_video([(n / FPS, boxes) for n, boxes in enumerate(states)], FPS)]
    assert ids[-1] == [NO_TRACK]
