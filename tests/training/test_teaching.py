"""A model learns what it is told, of whom it is told, and keeps what nobody has corrected."""

from __future__ import annotations

import csv
import shutil
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest

from pipeline.activity.bundle import Bundle, load_bundle
from pipeline.engine.relabel import classify
from pipeline.engine.teach import AFTER, BEFORE, teach
from pipeline.errors import UsageError
from pipeline.lake.query import open_lake
from pipeline.training.annotations import Annotation
from pipeline.training.card import model_card
from pipeline.training.dataset import Item, LabelledVideo, load_videos
from pipeline.training.fit import FitOptions, fit
from pipeline.training.sequences import IGNORE
from pipeline.training.splits import divide
from pipeline.training.teaching import TeachOptions, contradicted, count_said, grown, remembered, without
from tests.made_up import CONFIG, FPS, MadeUpPerson, made
from tests.test_cli import here, run, text

INPUTS = CONFIG.embedded
NAMES = ("background", "walk", "wave", "sit")
"""What the numbers mean that made-up people do; nobody does 0."""
SHARDS = [
    {
        f"v{n:02d}": [MadeUpPerson(1, 1 + n % 3, 0, 60), MadeUpPerson(3, 1 + (n + 1) % 3, 0, 60)]
        for n in range(first, first + 4)
    }
    for first in (0, 4, 8)
]


def uri(number: int) -> str:
    return f"/videos/v{number:02d}.mp4"


def box_of(track: int) -> tuple[float, float, float, float]:
    left = 50.0 + 40 * track
    return left, 50.0, left + 50, 150.0


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(made(tmp_path_factory.mktemp("made") / "lake", SHARDS, CONFIG).uri)


@pytest.fixture(scope="module")
def base(lake: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that knows what people do, trained on two thirds of the videos; it has labelled the lake."""
    truth = [
        Annotation(uri(n), NAMES[1 + (n + k) % 3], 0.0, 12.0, box=box_of(track))
        for n in range(8) for k, track in enumerate((1, 3))
    ]  # fmt: skip
    uris = {each.video: each.video for each in truth}
    videos = load_videos(open_lake(str(lake)), uris, truth, NAMES, "person", INPUTS)
    options = FitOptions(
        hidden_dim=32, projection_dim=32, members=1, epochs=30, batch_size=4, learning_rate=5e-3,
        input_dropout=0.1, dropout=0.1, label_smoothing=0.0, row_steps=20,
    )  # fmt: skip
    model = fit([s for video in videos for s in video.sequences], INPUTS, len(NAMES), options)
    bundle = Bundle(
        "base", NAMES, "person", CONFIG.chosen_embedder, float(FPS), model.spec,
        {name: tensor.numpy() for name, tensor in model.state_dict().items()}, "background",
        training={"features": CONFIG.feature_options(), "options": asdict(options), "note": "Made-up people.",
                  "n_videos": 8, "trained_on": "all clips"},
        metrics={"splits": {}, "means": {}},
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("bundles") / "base"
    bundle.save(folder, model_card(bundle))
    classify(str(lake), str(folder))
    return folder


def answers(path: Path, told: list[tuple[int, int, str]]) -> Path:
    """Write what is said of (video, person)."""
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["video", "start_s", "end_s", "label", "x1", "y1", "x2", "y2"])
        writer.writerows([uri(n), 1.0, 11.0, label, *box_of(track)] for n, track, label in told)
    return path


def most_said(lake: Path, model: str) -> dict[tuple[str, int], str]:
    rows = open_lake(str(lake)).table("segments", filter=pc.field("model") == model).to_pylist()
    seconds: dict[tuple[str, int], Counter[str]] = {}
    for row in rows:
        seconds.setdefault((row["video_id"], row["track_id"]), Counter())[row["label"]] += row["end_s"] - row["start_s"]
    return {who: counted.most_common(1)[0][0] for who, counted in seconds.items()}


def test_only_who_is_meant_is_labelled(lake: Path) -> None:
    told = [
        Annotation(uri(0), "walk", 0.0, 6.0, box=box_of(1)), Annotation(uri(0), "sit", 6.0, 12.0, box=box_of(1)),
        Annotation(uri(0), "wave", 0.0, 6.0, box=box_of(3)), Annotation(uri(1), "sit", 0.0, 4.0),
        Annotation(uri(2), "sit", 0.0, 4.0, box=(500.0, 0.0, 510.0, 10.0)),
    ]  # fmt: skip
    uris = {each.video: each.video for each in told}
    found = {v.video: v for v in load_videos(open_lake(str(lake)), uris, told, NAMES, "person", INPUTS)}
    assert sorted(found) == [uri(0) + " (person 1)", uri(0) + " (person 3)", uri(1), uri(2) + " (person ?)"]
    (one,), (three,) = (found[uri(0) + f" (person {n})"].sequences for n in (1, 3))
    assert one.label_ids.tolist() == [1] * 30 + [3] * 30
    assert three.label_ids.tolist() == [2] * 30 + [IGNORE] * 30
    assert len(found[uri(1)].sequences) == 2  # Nobody is named, so both are meant.
    assert found[uri(2) + " (person ?)"].sequences == ()


@pytest.mark.parametrize(("end_s", "n_meant"), [(12.0, 1), (11.0, 2)])
def test_labels_without_a_box_are_not_about_who_is_named_for_the_whole_time(
    lake: Path, end_s: float, n_meant: int
) -> None:
    """Person 1 is a thing. If only a part of what is seen of it were named, the rest could be whoever is meant."""
    told = [Annotation(uri(0), "background", 0.0, end_s, box=box_of(1)), Annotation(uri(0), "sit", 0.0, 12.0)]
    found = {v.video: v for v in load_videos(open_lake(str(lake)), {uri(0): uri(0)}, told, NAMES, "person", INPUTS)}
    (thing,) = found[uri(0) + " (person 1)"].sequences
    assert (thing.label_ids == 0).sum() == end_s * FPS
    others = found[uri(0)].sequences
    assert len(others) == n_meant
    assert any(np.array_equal(each.inputs, thing.inputs) for each in others) == (n_meant == 2)


def test_corrections_are_learnt_and_the_rest_is_kept(lake: Path, base: Path, tmp_path: Path) -> None:
    """What was called "wave" is "juggle" now, which the model did not know; nobody speaks of those who walk or sit."""
    waving = [(n, track) for n in range(8) for k, track in enumerate((1, 3)) if (n + k) % 3 == 1]
    assert set(most_said(lake, "base").values()) == {"walk", "wave", "sit"}
    path = answers(tmp_path / "answers.csv", [(n, track, "juggle") for n, track in waving])
    out = tmp_path / "taught"
    shown = here("teach", "--lake", lake, path, "--out", out, "--model", base)
    assert shown.returncode == 0, shown.stderr.decode()
    assert "answers held out, after" in text(shown.stdout)
    bundle = load_bundle(out)
    assert bundle.labels == (*NAMES, "juggle")
    assert bundle.training["note"].startswith(f"Taught by {len(waving)} answers (answers.csv), going on from base.")
    assert bundle.metrics["splits"][BEFORE]["accuracy"] == 0.0
    assert bundle.metrics["splits"][AFTER]["accuracy"] > 0.5
    assert bundle.spec.energies
    said = most_said(lake, "taught")
    # The last four videos were never trained on, nor answered.
    for n in range(12):
        for k, track in enumerate((1, 3)):
            does = 1 + (n + k) % 3
            assert said[f"v{n:02d}", track] == ("walk", "juggle", "sit")[does - 1], (n, track)


def test_the_same_answers_teach_the_same(lake: Path, base: Path, tmp_path: Path) -> None:
    path = answers(tmp_path / "answers.csv", [(0, 1, "sit"), (3, 3, "walk")])
    options = TeachOptions(epochs=2)
    bundles = [teach(str(lake), path, tmp_path / name, base, options).bundle for name in ("one", "two")]
    assert bundles[0].sha256 == bundles[1].sha256 != load_bundle(base).sha256


def test_people_of_one_video_belong_to_one_part() -> None:
    def of(track: int, part: str) -> LabelledVideo:
        annotation = Annotation("a.mp4", "walk", 0.0, 1.0, {"split": part}, box=box_of(track))
        return LabelledVideo(f"a.mp4 (person {track})", (), (Item(annotation, 0, 0, 5),))

    with pytest.raises(UsageError, match="split is both test and train; a video belongs to one part"):
        divide([of(1, "train"), of(3, "test")], "split")
    parts = divide([of(1, "train"), of(3, "train")], "split")
    assert (len(parts.train), len(parts.test)) == (2, 0)


def test_a_new_output_says_nothing_yet(base: Path, lake: Path) -> None:
    bundle = load_bundle(base)
    for _, rows, track_ids in open_lake(str(lake)).videos(["v00"]):
        for sequence in rows.track_sequences(track_ids):
            inputs = np.concatenate(list(rows.inputs(sequence, INPUTS)))
            before, after = (
                np.concatenate(list(model.classifier().scores([inputs]))) for model in (bundle.model, grown(bundle, 6))
            )
            assert (after.argmax(axis=1) == before.argmax(axis=1)).all()
            assert after[:, 4:].max() < before.max(axis=1).min()
            np.testing.assert_allclose(after[:, :4] / after[:, :4].sum(axis=1, keepdims=True), before, atol=1e-5)


def test_whom_answers_are_about_is_not_remembered(base: Path, lake: Path) -> None:
    bundle, reader = load_bundle(base), open_lake(str(lake))
    told = [Annotation(uri(0), "sit", 1.0, 2.0, box=box_of(1)), Annotation(uri(1), "sit", 1.0, 2.0)]
    found = remembered(reader, bundle, {each.video: each.video for each in told}, told)
    counted = {video.video: len(video.sequences) for video in found}
    assert counted == {f"{uri(n)} (as before)": 1 if n == 0 else 2 for n in range(12) if n != 1}
    for video in found:
        assert not video.items
        for sequence in video.sequences:
            assert set(sequence.label_ids.tolist()) <= {IGNORE, 1, 2, 3}


def test_labels_that_answers_contradict_are_not_remembered(base: Path, lake: Path) -> None:
    """Two of three who wave were said to walk; whoever sits was said to sit."""
    waving, sitting = (
        [(n, t) for n in range(8) for k, t in enumerate((1, 3)) if (n + k) % 3 == does] for does in (1, 2)
    )
    labels = [*(("wave", who) if i % 3 == 2 else ("walk", who) for i, who in enumerate(waving[:3])),
              *(("sit", who) for who in sitting[:3])]  # fmt: skip
    told = [Annotation(uri(n), label, 1.0, 11.0, box=box_of(track)) for label, (n, track) in labels]
    uris = {each.video: each.video for each in told}
    reader, bundle = open_lake(str(lake)), load_bundle(base)
    answered = load_videos(reader, uris, told, NAMES, "person", INPUTS)
    counts = count_said(bundle, answered)
    assert contradicted(counts.values()) == {NAMES.index("wave")}
    kept = without(remembered(reader, bundle, uris, told), contradicted(counts.values()))
    said = np.concatenate([sequence.label_ids for video in kept for sequence in video.sequences])
    assert set(said.tolist()) - {IGNORE} == {NAMES.index("walk"), NAMES.index("sit")}


def test_old_data_are_learnt_from_again(base: Path, lake: Path, tmp_path: Path) -> None:
    old = answers(tmp_path / "old.csv", [(n, 1, NAMES[1 + n % 3]) for n in range(8)])
    path = answers(tmp_path / "answers.csv", [(0, 1, "sit"), (1, 3, "walk")])
    options = TeachOptions(epochs=1)
    with_old = teach(str(lake), path, tmp_path / "a", base, options, old, str(lake)).bundle
    assert with_old.sha256 != teach(str(lake), path, tmp_path / "b", base, options).bundle.sha256
    with pytest.raises(UsageError, match="--replay needs --replay-lake"):
        teach(str(lake), path, tmp_path / "c", base, options, old)


def refused(lake: Path, path: Path, out: Path, base: str | Path | None = None) -> str:
    with pytest.raises(UsageError) as error:
        teach(str(lake), path, out, base, TeachOptions(epochs=1))
    return str(error.value)


def test_what_can_not_be_taught_is_told(base: Path, lake: Path, tmp_path: Path) -> None:
    path, out = answers(tmp_path / "answers.csv", [(0, 1, "sit")]), tmp_path / "x"
    alone = tmp_path / "lake"
    shutil.copytree(lake, alone)
    shutil.rmtree(alone / "segments")
    classify(str(alone), str(base))
    said = refused(alone, path, out)
    assert "labelled by 'base', which is no bundled model; name its folder by --model" in said
    assert "has the same name; choose another" in refused(lake, path, tmp_path / "base", base)
    assert "daily22-look" in refused(lake, path, out, "daily22-look")
    nobody = tmp_path / "nobody.csv"
    nobody.write_text(f"video,start_s,end_s,label,x1,y1,x2,y2\n{uri(0)},0,1,sit,600,0,620,9\n")
    assert "nobody was seen in this lake where its answers are" in refused(lake, nobody, out, base)
    other = tmp_path / "other.csv"
    other.write_text("video,start_s,end_s,label\nelsewhere.mp4,0,1,sit\n")
    assert "no video 'elsewhere.mp4' in lake" in refused(lake, other, out, base)
    assert not out.exists()


def test_few_answers_are_not_measured_and_lost_ones_are_told(base: Path, lake: Path, tmp_path: Path) -> None:
    partly = answers(tmp_path / "partly.csv", [(0, 1, "sit"), (1, 9, "walk")])
    options = ["--out", tmp_path / "few", "--model", base, "--epochs", "1", "--no-relabel"]
    shown = run("teach", "--lake", lake, partly, *options)
    assert "1 answers are left out, for nobody was followed there" in text(shown.stderr)
    assert "the answers are of too few videos to measure on" in text(shown.stdout)
    bundle = load_bundle(tmp_path / "few")
    assert bundle.training["note"].startswith("Taught by 1 answers")
    assert (bundle.metrics["splits"], bundle.labels) == ({}, NAMES)
