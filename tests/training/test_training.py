from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline import Config, UsageError, analyze, load_bundle, open_lake, train
from pipeline.activity.bundle import BACKGROUND, Bundle
from pipeline.activity.model import ActivityModel
from pipeline.activity.segments import SegmentOptions
from pipeline.lake.sequences import BoxRows, FrameRows, VideoRows
from pipeline.training.annotations import Annotation
from pipeline.training.dataset import Item, LabelledVideo, load_videos, main_tracks
from pipeline.training.fit import FitOptions, fit
from pipeline.training.sequences import IGNORE, LabelledSequence
from pipeline.training.validation import validate

FRAME = ("frame",)
SMALL = FitOptions(hidden_dim=16, members=1, epochs=25, input_dropout=0.1, dropout=0.1)

FEW = replace(SMALL, epochs=25, batch_size=8)


def order_of_cues(n: int, seed: int) -> list[LabelledSequence]:
    """Sequences whose label is which of two cues came first: a mean over time can't tell."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(n):
        inputs = rng.normal(0, 0.3, (20, 8)).astype(np.float16)
        first, second = (0, 1) if number % 2 else (1, 0)
        inputs[3, first] += 4
        inputs[14, second] += 4
        found.append(LabelledSequence(inputs, np.full(20, number % 2)))
    return found


@pytest.fixture(scope="module")
def remembering() -> ActivityModel:
    """A model that has learnt which cue came first."""
    options = replace(SMALL, min_crop=1.0, join=0.0, epochs=60, learning_rate=5e-3)
    return fit(order_of_cues(240, 0), FRAME, 2, options)


def test_the_model_learns_what_only_memory_can_tell(remembering: ActivityModel) -> None:
    videos = [
        LabelledVideo(str(i), (sequence,), (Item(Annotation("v", "x"), int(sequence.label_ids[0]), 0, 20),))
        for i, sequence in enumerate(order_of_cues(40, 1))
    ]
    assert validate(remembering, videos, ("a", "b"), 15.0, SegmentOptions())["accuracy"] > 0.95


@pytest.mark.parametrize(
    ("other", "score", "who"),
    [
        ((200, 50), 0.3, [0, 1]),  # Clothes on a rack are as large, but the detector doubts them.
        ((200, 50), 0.6, [0, 1, 2]),
        ((50, 60), 0.9, [0, 1]),
        ((50, 60), 0.2, [0, 1]),
    ],
)
def test_who_acts_is_large_and_surely_somebody(other: tuple[int, int], score: float, who: list[int]) -> None:
    """Beside somebody of 200 x 50 pixels and a score of 0.8, who is there for two of three frames; then a small one."""
    sides = np.array([(200, 50), other, (200, 50), other, (20, 10)], np.float32)
    n = np.arange(3)
    frames = FrameRows(step=n, n_steps=np.ones(3, np.int64), pts_s=n / 10, piece=0 * n, row=n)
    boxes = BoxRows(
        frame=np.array([0, 0, 1, 1, 2]),
        class_id=np.zeros(5, np.int32),
        score=np.array([0.8, score, 0.8, score, 0.1], np.float32),
        xyxy=np.hstack([np.zeros((5, 2), np.float32), sides]),
        keypoints=np.empty((5, 0, 3), np.float32),
        piece=np.zeros(5, np.int64),
        row=np.arange(5),
    )
    rows = VideoRows(frames, boxes, lambda piece, name: np.empty((5, 1), np.float16))
    tracks = list(rows.track_sequences(np.array([0, 2, 0, 2, 1])))
    assert [track.track_id for track in main_tracks(tracks)] == who


def test_the_same_seed_gives_the_same_model_and_another_another() -> None:
    losses: dict[int, list[float]] = {}
    models = []
    for run, seed in enumerate((3, 3, 4)):
        losses[run] = []
        models.append(
            fit(
                order_of_cues(16, 0),
                FRAME,
                2,
                replace(SMALL, epochs=2, seed=seed),
                lambda _, x, r=run: losses[r].append(x),
            )
        )
    weights = [torch.cat([p.flatten() for p in model.parameters()]) for model in models]
    assert torch.equal(weights[0], weights[1])
    assert losses[0] == losses[1]
    assert not torch.equal(weights[0], weights[2])


def test_unlabelled_steps_teach_nothing() -> None:
    """Where the first half says one thing and the ignored half's inputs another, only the first is learnt."""
    sequences = order_of_cues(16, 0)
    half = [LabelledSequence(s.inputs, np.where(np.arange(20) < 10, s.label_ids, IGNORE)) for s in sequences]
    options = replace(SMALL, epochs=3, min_crop=1.0, join=0.0, bidirectional=False)
    changed = [LabelledSequence(np.concatenate([s.inputs[:10], -s.inputs[10:]]), s.label_ids) for s in half]
    first, second = (torch.cat([p.flatten() for p in fit(x, FRAME, 2, options).parameters()]) for x in (half, changed))
    assert torch.allclose(first, second, atol=1e-6)


def test_metrics_of_a_case_worked_by_hand() -> None:
    sequence = LabelledSequence(np.zeros((4, 8), np.float16), np.array([0, 0, 1, IGNORE]))
    items = (Item(Annotation("v", "a"), 0, 0, 2), Item(Annotation("v", "b"), 1, 2, 3))
    model = fit(order_of_cues(4, 0), FRAME, 2, replace(SMALL, epochs=1))
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
        model.members[0].head.output.bias.copy_(torch.tensor([1.0, 0.0]))
    options = SegmentOptions(min_duration_s=0.0)
    found = validate(model, [LabelledVideo("v", (sequence,), items)], ("a", "b"), 15.0, options)
    assert found["confusion"] == [[1, 0], [1, 0]]
    assert (found["accuracy"], found["mean_class_accuracy"], found["n_spans"]) == (0.5, 0.5, 2)
    assert found["frame_accuracy"] == pytest.approx(2 / 3)
    # One segment of `a` over four steps, where two are true: half the union. Precision 1, recall 1/2.
    assert found["segment_f1"] == pytest.approx(2 / 3)
    assert found["recall"] == {"a": 1.0, "b": 0.0}
    # The background is neither wanted nor found.
    calm = validate(model, [LabelledVideo("v", (sequence,), items)], (BACKGROUND, "b"), 15.0, options)
    assert calm["segment_f1"] == 0.0


def test_a_video_in_which_nobody_is_found_counts_as_wrong() -> None:
    model = fit(order_of_cues(4, 0), FRAME, 2, replace(SMALL, epochs=1))
    items = (Item(Annotation("v", "a"), 0, 0, 20),)
    found = validate(model, [LabelledVideo("v", (), items)], ("a", "b"), 15.0, SegmentOptions())
    assert (found["accuracy"], found["frame_accuracy"], found["n_spans"], found["n_unseen"]) == (0.0, 0.0, 1, 1)


def test_the_larger_person_says_more_about_a_video(remembering: ActivityModel) -> None:
    first, second = order_of_cues(2, 1)
    items = (Item(Annotation("v", "a"), 0, 0, 20),)
    for large, small in ((first, second), (second, first)):
        sequences = (
            replace(large, weights=np.full(20, 9.0, np.float32)),
            replace(small, weights=np.ones(20, np.float32)),
        )
        expected = float(large.label_ids[0] == 0)
        found = validate(remembering, [LabelledVideo("v", sequences, items)], ("a", "b"), 15.0, SegmentOptions())
        assert found["accuracy"] == expected


def test_a_bundle_comes_back_as_it_was_written(tmp_path: Path) -> None:
    bundle = load_bundle("jhmdb21-frame")
    replace(bundle, name="copy").save(tmp_path / "copy", "# card")
    again = load_bundle(tmp_path / "copy")
    assert (again.labels, again.segments, again.metrics, again.sha256) == (
        bundle.labels,
        bundle.segments,
        bundle.metrics,
        bundle.sha256,
    )
    for a, b in zip(again.model.parameters(), bundle.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert (tmp_path / "copy" / "README.md").read_text() == "# card"


@pytest.mark.parametrize(
    ("name", "n_labels", "kind", "least", "most_off"),
    [
        ("jhmdb21-frame", 21, "split", 0.52, 1.0),
        ("daily22-person", 23, "split_jhmdb", 0.66, 0.08),
        ("daily22-look", 23, "split_jhmdb", 0.67, 0.05),
        ("everyday12-pose", 13, "split_subject", 0.65, 0.2),
    ],
)
def test_the_bundled_models_have_cards_with_their_figures(
    name: str, n_labels: int, kind: str, least: float, most_off: float
) -> None:
    bundle = load_bundle(name)
    assert len(bundle.labels) == n_labels
    assert bundle.metrics["means"][kind]["accuracy"] >= least
    if kind == "split_jhmdb":
        # A score of a default model means what it says.
        assert bundle.metrics["means"][kind]["calibration_error"] <= most_off
    folder = Path(__import__("pipeline").__file__).parent / "activity" / "bundles" / bundle.name
    assert f"{bundle.metrics['means'][kind]['accuracy']:.3f}" in (folder / "README.md").read_text()


@pytest.mark.parametrize(
    ("part", "damage"),
    [
        ("segments", []),
        ("segments", None),
        ("segments", {"events": ["slip"]}),
        ("segments", {"events": [21]}),
        ("model", {"temperature": 0}),
        ("model", {"energies": "x"}),
        ("model", {"energies": [1.0]}),
    ],
)
def test_bundles_with_options_that_can_not_be_are_refused(tmp_path: Path, part: str, damage: object) -> None:
    """Before a lake is labelled by them: its segments would be gone."""
    load_bundle("jhmdb21-frame").save(tmp_path)
    record = json.loads((tmp_path / "model.json").read_text())
    record[part] = record[part] | damage if isinstance(damage, dict) else damage
    (tmp_path / "model.json").write_text(json.dumps(record))
    with pytest.raises(UsageError, match=r"model.json and the weights do not fit together .*name a folder"):
        load_bundle(tmp_path)


@pytest.mark.parametrize("damage", ["no weights", "cut weights", "other format", "wrong labels", "missing key"])
def test_damaged_bundles_are_refused(tmp_path: Path, damage: str) -> None:
    bundle: Bundle = load_bundle("jhmdb21-frame")
    bundle.save(tmp_path)
    weights, record_file = tmp_path / "model.safetensors", tmp_path / "model.json"
    record = json.loads(record_file.read_text())
    if damage == "no weights":
        weights.unlink()
    elif damage == "cut weights":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif damage == "other format":
        record["format"] = 99
    elif damage == "wrong labels":
        record["labels"] = ["walk"]
    else:
        del record["segments"]
    record_file.write_text(json.dumps(record))
    with pytest.raises(UsageError, match=str(tmp_path)):
        load_bundle(tmp_path)


@pytest.fixture(scope="module")
def few_clips(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three activities that look different, nine clips of each, with the first official split."""
    with open(data_dir / "jhmdb" / "splits.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    path = tmp_path_factory.mktemp("few") / "few.csv"
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["label", "video", "split"])
        for label in ("golf", "pullup", "shoot_bow"):
            for part, n in (("train", 6), ("test", 3)):
                chosen = [row for row in rows if row["label"] == label and row["split1"] == part][:n]
                writer.writerows([[label, row["video"], part] for row in chosen])
    return path


@pytest.mark.e2e
@pytest.mark.accuracy
@pytest.mark.parametrize("scope", [pytest.param("frame", marks=pytest.mark.long), "person"])
def test_labels_to_bundle_to_segments(scope: str, few_clips: Path, data_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "sports"
    config = Config(scope=scope, sample_fps=5.0, workers=1)
    result = train(few_clips, str(data_dir / "jhmdb"), out, config=config, options=FEW)
    assert result.metrics["splits"]["split"]["n_test"] == 9
    # Six clips of each are few; guessing gives a third.
    assert result.metrics["splits"]["split"]["accuracy"] >= 0.6
    assert "training part" in (out / "README.md").read_text()
    clip = data_dir / "jhmdb" / "clips" / "golf"
    analyze([str(next(clip.iterdir()))], str(tmp_path / "lake"), model=out)
    segments = open_lake(str(tmp_path / "lake")).table("segments").to_pylist()
    assert {row["model"] for row in segments} == {"sports"}
    assert {row["label"] for row in segments} <= {"golf", "pullup", "shoot_bow"}
    assert {row["scope"] for row in segments} == {scope}
    assert all((row["track_id"] is not None) == (scope == "person") for row in segments)


@pytest.mark.e2e
def test_trained_again_nothing_is_decoded(few_clips: Path, data_dir: Path, tmp_path: Path) -> None:
    """The features stay, and the same seed gives the same model; two clips of each activity, and one to measure on."""
    heading, *rows = few_clips.read_text(encoding="utf-8").splitlines()
    labels = tmp_path / "fewer.csv"
    labels.write_text("\n".join([heading, *rows[::3]]), encoding="utf-8")
    out, states = tmp_path / "sports", []
    options = replace(FEW, epochs=1, members=1)
    first, again = (
        train(
            labels, str(data_dir / "jhmdb"), out, config=Config(scope="frame"), options=options,
            observer=states.append,
        )
        for _ in range(2)
    )  # fmt: skip
    assert (states[-1].n_chunks_done, states[-1].n_videos_before) == (0, 9)
    assert again.metrics == first.metrics


@pytest.mark.e2e
@pytest.mark.accuracy
def test_the_bundled_model_names_what_it_was_taught(data_dir: Path, tmp_path: Path) -> None:
    """Its clips are known to it; a fault anywhere between the file and the row would show."""
    clips = [
        str(path)
        for folder in sorted((data_dir / "jhmdb" / "clips").iterdir())
        for path in sorted(folder.iterdir())[:2]
    ]
    analyze(clips, str(tmp_path / "lake"), config=Config(scope="frame"))
    longest = open_lake(str(tmp_path / "lake")).sql(
        "SELECT split_part(uri, '/', -2) AS truth, arg_max(label, end_s - start_s) AS label FROM segments GROUP BY uri"
    )
    right = [row["truth"] == row["label"] for row in longest.to_pylist()]
    assert len(right) == 42
    assert sum(right) >= 40


@pytest.mark.e2e
@pytest.mark.accuracy
def test_the_bundled_person_model_sees_who_falls(data_dir: Path, tmp_path: Path) -> None:
    """These clips are known to it, too: from the file over the box and the track to the row nothing may be lost."""
    with open(data_dir / "gmdcsa24" / "annotations.csv", encoding="utf-8") as file:
        falls = [row for row in csv.DictReader(file) if row["label"] == "falling" and row["subject"] != "subject2"]
    clips = [str(data_dir / "gmdcsa24" / row["video"]) for row in falls[:6]]
    analyze(clips, str(tmp_path / "lake"))
    found = open_lake(str(tmp_path / "lake")).pandas("segments")
    for row, clip in zip(falls, clips, strict=False):
        of_clip = found[(found["uri"] == clip) & (found["label"] == "fall")]
        overlaps = (of_clip["start_s"] < float(row["end_s"])) & (float(row["start_s"]) < of_clip["end_s"])
        assert overlaps.any(), clip
        assert of_clip["track_id"].notna().all()


def test_training_mistakes_are_told_before_anything_is_decoded(tmp_path: Path, data_dir: Path) -> None:
    labels = tmp_path / "labels.csv"
    clip = next((data_dir / "jhmdb" / "clips" / "golf").iterdir())
    shutil.copy(clip, tmp_path / "there.mp4")
    labels.write_text("video,label\ngone.mp4,walk\nalso.mp4,run\n")
    with pytest.raises(UsageError, match=r"line 2: no video 'gone\.mp4' in "):
        train(labels, str(tmp_path), tmp_path / "out")
    labels.write_text(f"video,label\n{clip.name},walk\n")
    with pytest.raises(UsageError, match="only one label, 'walk'"):
        train(labels, str(clip.parent), tmp_path / "out")
    with pytest.raises(UsageError, match="'both'"):
        train(labels, str(clip.parent), tmp_path / "out", config=Config(scope="both"))
    assert not (tmp_path / "out").exists()


@pytest.mark.e2e
def test_steps_are_labelled_by_time_and_the_later_span_wins(numbered: Path, tmp_path: Path) -> None:
    uri = str(numbered / "h264.mp4")
    analyze([uri], str(tmp_path / "lake"), model=None, config=Config(scope="frame", sample_fps=10.0))
    lake = open_lake(str(tmp_path / "lake"))
    spans = [Annotation("v", "sit", 0.2, 1.5), Annotation("v", "read", 0.5, 0.8), Annotation("v", BACKGROUND, 0.7, 1.9)]
    (video,) = load_videos(lake, {"v": uri}, spans, [BACKGROUND, "read", "sit"], "frame", ["frame"])
    (sequence,) = video.sequences
    assert sequence.inputs.shape == (20, 1280)
    # Anything wins over the background, and what starts later over the rest.
    assert sequence.label_ids.tolist() == [IGNORE] * 2 + [2] * 3 + [1] * 3 + [2] * 7 + [0] * 4 + [IGNORE]

    # What happens at one moment is in the step that shows it; what is marked at the very end is in the last.
    moments = [Annotation("v", "read", at, at) for at in (0.29, 0.5, 2.0)]
    (video,) = load_videos(lake, {"v": uri}, moments, ["read", "sit"], "frame", ["frame"])
    assert [(item.first_step, item.end_step) for item in video.items] == [(2, 3), (5, 6), (19, 20)]


@pytest.mark.e2e
def test_of_a_file_that_changed_a_training_learns_what_it_holds_now(numbered: Path, tmp_path: Path) -> None:
    labels, lake = tmp_path / "labels.csv", str(tmp_path / "lake")
    labels.write_text(
        "video,label,start_s,end_s\n"
        + "".join(f"{name}.mp4,sit,0.2,1\n{name}.mp4,read,1.1,1.5\n" for name in ("clip", "a", "b", "c"))
    )
    config, quick = Config(scope="frame", sample_fps=10.0), replace(SMALL, epochs=1)
    for name in "abc":
        shutil.copy(numbered / "h264.mp4", tmp_path / f"{name}.mp4")
    for number in range(2):
        shutil.copy(numbered / "h264.mp4", tmp_path / "clip.mp4")
        result = train(labels, str(tmp_path), tmp_path / f"out{number}", lake=lake, config=config, options=quick)
        assert result.bundle.training["n_videos"] == 4
    clip = str(tmp_path / "clip.mp4")
    rows = open_lake(lake).table("videos", ["video_id", "uri"]).to_pylist()
    ids = [row["video_id"] for row in rows if row["uri"] == clip]
    spans, uris = [Annotation("v", "sit", 0.2, 1)], {"v": clip}
    for some, n_videos in ((None, 2), (ids[:1], 1), ([], 0)):
        assert len(load_videos(open_lake(lake), uris, spans, ["sit"], "frame", ["frame"], some)) == n_videos
