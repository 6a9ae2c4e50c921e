"""Skeletons in 3D as a detector would see them, and the training that learns from them beside videos."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import Config, UsageError, train
from pipeline.activity.bundle import load_bundle
from pipeline.training.fit import FitOptions
from pipeline.training.sequences import IGNORE
from pipeline.training.skeletons import Skeletons, look_at, read_skeletons, seen_from_anywhere
from pipeline.vision.keypoints import KEYPOINTS

LABELS = ("background", "lie", "stand")
INPUTS = ("box", "pose")
SMALL = FitOptions(hidden_dim=16, members=1, epochs=30, batch_size=8, input_dropout=0.1, dropout=0.1)
# Who stands: x to the left, y up, in metres; the face ahead of the head.
_PLACES = {
    "nose": (0, 1.65, -0.1), "eye": (0.03, 1.68, -0.08), "ear": (0.07, 1.65, 0), "shoulder": (0.2, 1.4, 0),
    "elbow": (0.25, 1.1, 0), "wrist": (0.25, 0.85, 0), "hip": (0.12, 0.9, 0), "knee": (0.12, 0.5, 0),
    "ankle": (0.12, 0.08, 0),
}  # fmt: skip
UPRIGHT = np.array(
    [
        np.array(_PLACES[name.rpartition("_")[2]]) * ([-1, 1, 1] if name.startswith("right") else [1, 1, 1])
        for name in KEYPOINTS
    ]
)
LYING = UPRIGHT[:, [1, 0, 2]] * [1, 0, 1] + [0, 0.15, 0] + UPRIGHT[:, [1, 0, 2]] * [0, 0.5, 0]


def skeletons(n: int, body: np.ndarray, name: str, n_steps: int = 30) -> Skeletons:
    joints = np.tile(body, (n * n_steps, 1, 1)).astype(np.float32)
    names = ("stand", "lie")
    label_ids = np.full(n * n_steps, names.index(name))
    return Skeletons(joints, label_ids, np.full(n, n_steps), names, np.array([True, False]), 15.0)


def written(path: Path, **changed: Any) -> Path:
    np.savez(path, **vars(skeletons(3, UPRIGHT, "stand")) | changed)
    return path


def test_whoever_stands_is_seen_upright_and_whoever_lies_is_not() -> None:
    """From every side: without the turn about the upright axis, or with y the wrong way up, the shares are others."""
    rng = np.random.default_rng(0)
    for body, least, most in ((UPRIGHT, 0.9, 1.0), (LYING, 0.0, 0.35)):
        upright = []
        for _ in range(300):
            _, _, keypoints, beyond = look_at(np.tile(body, (8, 1, 1)), 0.5, rng)
            if not beyond.any():
                nose, ankles = keypoints[:, 0, :2], keypoints[:, 15:, :2].mean(axis=1)
                across, down = np.abs(ankles - nose).T
                upright.append(bool((ankles[:, 1] > nose[:, 1]).all() and (down > across).all()))
        assert len(upright) > 150
        assert least <= np.mean(upright) <= most


def test_people_are_seen_from_all_sides() -> None:
    """The left shoulder lies left of the right one as often as right of it: without the turn it never does."""
    rng = np.random.default_rng(0)
    seen = [look_at(np.tile(UPRIGHT, (2, 1, 1)), 0.5, rng)[2][0] for _ in range(200)]
    left, right = KEYPOINTS.index("left_shoulder"), KEYPOINTS.index("right_shoulder")
    assert 0.35 < np.mean([keypoints[left, 0] < keypoints[right, 0] for keypoints in seen]) < 0.65


def test_the_labels_go_along_at_the_rate_of_the_grid() -> None:
    whole = skeletons(40, UPRIGHT, "stand")
    # The second half lies, by name; nobody says what the last five steps are.
    whole.label_ids.reshape(40, 30)[:, 15:25] = 1
    whole.label_ids.reshape(40, 30)[:, 25:] = IGNORE
    found = seen_from_anywhere(whole, LABELS, INPUTS, 7.5)
    assert len(found) == 40
    for sequence in found:
        assert sequence.inputs.shape == (len(sequence.label_ids), 9 + 85)
        assert sequence.inputs.dtype == np.float16
        # As fast as it was, or up to a fifth faster or a sixth slower.
        assert 29 / 2 / 1.2 <= len(sequence.label_ids) <= 29 / 2 / 0.85 + 1
    ids = np.concatenate([sequence.label_ids for sequence in found])
    assert set(ids) == {IGNORE, 0, 1, 2}
    assert (ids == 2).mean() == pytest.approx(0.45, abs=0.12)


def label_ids_of(name: str, labels: tuple[str, ...]) -> set[int]:
    found = seen_from_anywhere(skeletons(200, UPRIGHT, name), labels, INPUTS, 7.5)
    return set(np.concatenate([sequence.label_ids for sequence in found]).tolist())


def test_who_shows_no_legs_does_nothing_in_particular() -> None:
    """Of those who stand; who lies does so with the legs out of the picture, too, if enough is left of the body."""
    shares = {}
    for name in ("stand", "lie"):
        found = seen_from_anywhere(skeletons(200, UPRIGHT, name), LABELS, INPUTS, 7.5)
        shares[name] = (np.concatenate([sequence.label_ids for sequence in found]) == 0).mean()
    assert 0.02 < shares["lie"] < shares["stand"] / 2
    assert label_ids_of("stand", LABELS) == {IGNORE, 0, 2}
    assert label_ids_of("lie", LABELS) == {IGNORE, 0, 1}
    assert label_ids_of("stand", ("lie", "stand")) == {IGNORE, 1}, "no background among the labels"


def test_a_network_makes_a_whole_body_of_what_it_sees() -> None:
    """Below the picture's border: legs come to lie in the box, hips stay sure, and ankles do not."""
    rng = np.random.default_rng(0)
    below = [
        (xyxy[0], keypoints[0])
        for _, xyxy, keypoints, beyond in (look_at(np.tile(UPRIGHT, (8, 1, 1)), 0.5, rng) for _ in range(400))
        if beyond[0, 11:].all() and not beyond[0, :5].any()
    ]
    assert len(below) > 10
    boxes, keypoints = (np.array(parts) for parts in zip(*below, strict=True))
    high, low = boxes[:, 1, None], boxes[:, 3, None]
    depth = (keypoints[:, 11:, 1] - high) / (low - high)
    assert ((depth > 0.3) & (depth < 1.1)).mean() > 0.95
    assert np.median(keypoints[:, 11:13, 2]) > 0.8
    assert np.median(keypoints[:, 15:, 2]) < 0.4


def test_what_nobody_labelled_stays_without_a_label() -> None:
    """Also of those who are out of the picture."""
    nameless = skeletons(100, UPRIGHT, "stand")
    nameless.label_ids[:] = IGNORE
    found = seen_from_anywhere(nameless, LABELS, INPUTS, 7.5)
    assert set(np.concatenate([sequence.label_ids for sequence in found]).tolist()) == {IGNORE}


def test_a_camera_in_a_hand_stays_where_it_is_however_long_it_looks() -> None:
    """For nine minutes: nobody is seen ten times as large as before, or far from where the picture was."""
    rng = np.random.default_rng(0)
    moved = 0
    for _ in range(16):
        _, _, keypoints, _ = look_at(np.tile(UPRIGHT, (4000, 1, 1)), 1.0, rng)
        places = keypoints[::40, :, :2]
        sizes = np.ptp(places, axis=1).max(axis=1)
        moved += sizes.max() > 1.5 * sizes.min()
        assert sizes.max() < 10 * sizes.min()
        assert np.ptp(places.mean(axis=1), axis=0).max() < 20 * sizes.min()
    assert moved >= 2


def test_the_same_seed_sees_the_same() -> None:
    first, again, other = (
        seen_from_anywhere(skeletons(5, UPRIGHT, "stand"), LABELS, INPUTS, 7.5, seed) for seed in (1, 1, 2)
    )
    assert all(np.array_equal(a.inputs, b.inputs) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a.inputs, b.inputs) for a, b in zip(first, other, strict=True))


def test_other_inputs_are_refused() -> None:
    with pytest.raises(UsageError, match="no other inputs than box, pose; named are crop, box"):
        seen_from_anywhere(skeletons(1, UPRIGHT, "stand"), LABELS, ("crop", "box"), 7.5)


def test_they_come_back_as_they_were_written(tmp_path: Path) -> None:
    found = read_skeletons(written(tmp_path / "s.npz"))
    assert (found.names, found.rate, found.lengths.tolist()) == (("stand", "lie"), 15.0, [30, 30, 30])
    assert np.allclose(found.joints[45], UPRIGHT)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"joints": np.zeros((90, 16, 3))}, r"joints \(90, 16, 3\) and label_ids \(90,\) do not fit 90 steps of 17"),
        ({"lengths": np.array([30, 30])}, "do not fit 60 steps"),
        ({"joints": np.full((90, 17, 3), np.nan)}, "finite x, y, z"),
        ({"label_ids": np.full(90, 2)}, "a label_id is none of 2 names"),
        ({"rate": 0}, "a rate or a length is not above 0"),
        ({"lengths": np.array([90, 0])}, "a rate or a length is not above 0"),
        ({"names": np.array([{}], object)}, "can't be read as skeletons"),
        ({"needs_legs": np.array([True])}, "needs_legs none for each of the names"),
        ({"lengths": np.zeros(0, int)}, "lengths has no number for each sequence"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    path = written(tmp_path / "s.npz", **changed)
    with pytest.raises(UsageError, match=message) as raised:
        read_skeletons(path)
    assert str(path) in str(raised.value)


def test_what_is_no_such_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty.npz").write_bytes(b"")
    (tmp_path / "text.npz").write_text("joints\n")
    (tmp_path / "cut.npz").write_bytes(written(tmp_path / "s.npz").read_bytes()[:500])
    np.savez(tmp_path / "other.npz", joints=UPRIGHT)
    np.save(tmp_path / "array.npz.npy", UPRIGHT)
    (tmp_path / "array.npz.npy").rename(tmp_path / "array.npz")
    for name in ("empty", "text", "cut", "other", "array", "absent"):
        with pytest.raises(UsageError, match=f"{name}.npz: can't be read as skeletons"):
            read_skeletons(tmp_path / f"{name}.npz")


@pytest.mark.parametrize("mirrored", [False, True])
def test_inputs_that_skeletons_have_not_are_refused_before_anything_is_decoded(
    data_dir: Path, tmp_path: Path, mirrored: bool
) -> None:
    (tmp_path / "labels.csv").write_text("video,label\na.mp4,a\nb.mp4,b\n")
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).symlink_to(sorted((data_dir / "gmdcsa24" / "clips").glob("*.mp4"))[0])
    told = {"options": FitOptions(mirror=True)} if mirrored else {"skeletons": written(tmp_path / "s.npz")}
    with pytest.raises(UsageError, match="these are crop, crop_flow, box; name --scope person --inputs box,pose"):
        train(tmp_path / "labels.csv", str(tmp_path), tmp_path / "model", **told)
    assert not (tmp_path / "model-lake").exists()


def test_options_of_segments_that_can_not_be_are_named(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("video,label\na.mp4,stand\na.mp4,lie\n")
    (tmp_path / "a.mp4").touch()
    told = tmp_path / "labels.csv", str(tmp_path), tmp_path / "model"
    with pytest.raises(UsageError, match="--events fall: no such label; there are lie, stand"):
        train(*told, events=("fall", "lie"))
    with pytest.raises(UsageError, match="--events background: it gives no segment"):
        train(*told, events=("background",))
    with pytest.raises(UsageError, match="least_score = 2: scores and novelties lie between 0 and 1"):
        train(*told, least_score=2)
    with pytest.raises(UsageError, match="most_novel = -1: scores and"):
        train(*told, most_novel=-1)
    (tmp_path / "labels.csv").write_text("video,label,split (a)\na.mp4,stand,train\na.mp4,lie,train\n")
    with pytest.raises(UsageError, match=r"--keep-splits and the column 'split \(a\)': a model can't be called"):
        train(*told, keep_splits=True)


def test_a_model_learns_from_videos_and_skeletons(data_dir: Path, tmp_path: Path) -> None:
    """What no video shows is learnt from skeletons alone, and every split's model learns from all of them."""
    clips = sorted((data_dir / "jhmdb" / "clips" / "golf").glob("*.mp4"))[:4]
    rows = [
        f"{clip.name},stand,{','.join('test' if number == left_out else 'train' for left_out in (2, 3))},9"
        for number, clip in enumerate(clips)
    ]
    (tmp_path / "labels.csv").write_text("\n".join(["video,label,split_a,split_b,draws", *rows]))
    (tmp_path / "words.csv").write_text("label,meaning\nlie,the trunk is level\n")
    lying = skeletons(60, LYING, "lie")
    np.savez(tmp_path / "lying.npz", **vars(lying))
    config = Config(inputs=("box", "pose"), workers=1)
    options = replace(SMALL, row_steps=20, mirror=True)
    result = train(
        tmp_path / "labels.csv", str(clips[0].parent), tmp_path / "model", config=config, options=options,
        skeletons=tmp_path / "lying.npz", events=("lie",), least_score=0.25, most_novel=0.9, most_novel_event=0.7,
        keep_splits=True, meanings=tmp_path / "words.csv",
    )  # fmt: skip
    bundle = result.bundle
    segments = bundle.segments
    assert (segments.events, segments.threshold) == ((0,), 0.25)
    assert (segments.most_novel, segments.most_novel_event) == (0.9, 0.7)
    assert "| `lie` | the trunk is level |" in (tmp_path / "model" / "README.md").read_text()
    of_splits = {name: load_bundle(tmp_path / "model-splits" / name) for name in ("split_a", "split_b")}
    assert len({bundle.sha256, *(each.sha256 for each in of_splits.values())}) == 3
    assert result.metrics["means"].keys() == {"all splits"}
    for name, each in of_splits.items():
        assert (each.training["n_videos"], each.training["trained_on"]) == (3, f"{name}, training part")
        assert each.name == f"model.{name}"
        assert each.metrics["splits"].keys() == {name}
        assert each.metrics["splits"][name]["calibrated_on"] == "what other splits measure on"
        assert each.spec.temperature != 1.0
    assert len(bundle.spec.energies) == 101, "it knows what is unlike what it has learnt from"
    assert (bundle.labels, bundle.spec.inputs) == (("lie", "stand"), ("box", "pose"))
    assert (bundle.training["n_videos"], bundle.training["n_skeletons"]) == (4, 60)
    assert [split["accuracy"] for split in result.metrics["splits"].values()] == [1.0, 1.0]
    # Of both splits together: each answer was right, so scores become as sure as can be.
    assert bundle.spec.temperature == pytest.approx(0.2, abs=0.02)
    classifier = bundle.classifier()
    seen = seen_from_anywhere(lying, bundle.labels, ("box", "pose"), 7.5, 9)
    answers = np.concatenate([np.concatenate(list(classifier.scores([each.inputs]))).argmax(axis=1) for each in seen])
    assert (answers == 0).mean() > 0.9
    assert "60 skeletons" in (tmp_path / "model" / "README.md").read_text()
