"""Annotations that leave open which of several labels is right."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from pipeline import Config, analyze, open_lake
from pipeline.activity.bundle import BACKGROUND, load_bundle
from pipeline.activity.model import ActivityModel
from pipeline.activity.segments import SegmentOptions
from pipeline.activity.spec import ModelSpec
from pipeline.engine.train import train
from pipeline.errors import UsageError
from pipeline.training.annotations import Annotation, apply_label_map
from pipeline.training.calibration import answers, fit_temperature
from pipeline.training.cases import evaluate_lake
from pipeline.training.checkpoints import purpose_of
from pipeline.training.dataset import Item, LabelledVideo, load_videos
from pipeline.training.fit import FitOptions, fit
from pipeline.training.formats import read_annotations
from pipeline.training.losses import loss_of_either
from pipeline.training.sequences import IGNORE, DrawOptions, LabelledSequence, draw_batches
from pipeline.training.teaching import count_said
from pipeline.training.validation import validate

LABELS = (BACKGROUND, "sit", "stand")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return tmp_path / "labels.csv"


def test_a_table_names_them(table: Path) -> None:
    table.write_text("video,label,or\na.mp4,background,sit| stand\nb.mp4,walk,\n")
    first, second = read_annotations(table)
    assert (first.label, first.alternatives) == ("background", ("sit", "stand"))
    assert second.alternatives == ()
    mapped, _ = apply_label_map([first, second], {"sit": "rest", "stand": ""})
    assert mapped.alternatives == ("rest",)
    mapped, _ = apply_label_map([first, second], {"sit": "rest", "stand": "rest"})
    assert mapped.alternatives == ("rest",)
    mapped, _ = apply_label_map([first, second], {"sit": "background"})
    assert (mapped.label, mapped.alternatives) == ("background", ("stand",))


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("sit|", r"line 2: or = 'sit\|' has an empty label"),
        ("walk", "line 2: or names 'walk', which is the label already"),
        ("sit|sit", r"line 2: or = 'sit\|sit' names a label twice"),
    ],
)
def test_mistakes_are_told(table: Path, cell: str, message: str) -> None:
    table.write_text(f"video,label,or\na.mp4,walk,{cell}\n")
    with pytest.raises(UsageError, match=message):
        read_annotations(table)


def test_a_label_that_nothing_has_is_told_before_anything_is_decoded(table: Path, numbered: Path) -> None:
    table.write_text("video,label,or\nh264.mp4,background,sitt\nhevc.mp4,sit,\n")
    with pytest.raises(UsageError, match=r"labels\.csv, line 2: or = sitt: no label; there are background, sit"):
        train(table, str(numbered), table.parent / "out", config=Config(scope="frame"))
    assert not (table.parent / "out-lake").exists()


@pytest.mark.e2e
def test_steps_carry_them_unless_another_span_wins(numbered: Path, tmp_path: Path) -> None:
    uri = str(numbered / "h264.mp4")
    analyze([uri], str(tmp_path / "lake"), model=None, config=Config(scope="frame", sample_fps=10.0))
    spans = [
        Annotation("v", BACKGROUND, 0.2, 1.0, alternatives=("sit", "stand")),
        Annotation("v", "sit", 0.5, 0.7, alternatives=("stand",)),
        Annotation("v", "stand", 0.9, 1.2),
    ]
    (video,) = load_videos(open_lake(str(tmp_path / "lake")), {"v": uri}, spans, LABELS, "frame", ["frame"])
    (sequence,) = video.sequences
    assert sequence.alternatives is not None
    expected = np.zeros((20, 3), bool)
    expected[2:9, 1:] = True
    expected[5:7, 1] = False
    assert np.array_equal(sequence.alternatives, expected)
    (plain,) = load_videos(open_lake(str(tmp_path / "lake")), {"v": uri}, spans[2:], LABELS, "frame", ["frame"])
    assert plain.sequences[0].alternatives is None


def test_the_loss_is_that_of_either() -> None:
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    label_ids = torch.tensor([0, 1, IGNORE, 0, 2])
    none = torch.zeros(5, 3, dtype=torch.bool)
    usual = functional.cross_entropy(logits, label_ids, ignore_index=IGNORE, label_smoothing=0.1, reduction="sum")
    assert loss_of_either(logits, label_ids, none, 0.1).item() == pytest.approx(usual.item(), rel=1e-5)
    either = none.clone()
    either[3, 1:] = True
    either[2, 0] = True
    scores = logits.softmax(dim=1)
    expected = -(scores[0, 0].log() + scores[1, 1].log() + scores[4, 2].log())
    assert loss_of_either(logits, label_ids, either, 0.0).item() == pytest.approx(expected.item(), rel=1e-5), (
        "all three may be right at step 3, and step 2 has no label"
    )


def sequences_of(n: int, either: bool) -> list[LabelledSequence]:
    """Sequences of people who plainly stand, whom half of the annotations call background."""
    rng = np.random.default_rng(0)
    found = []
    for number in range(n):
        inputs = rng.normal(0, 0.3, (12, 8)).astype(np.float16)
        inputs[:, number % 2] += 3
        label_id = 1 if number % 2 else (2 if number % 4 else 0)
        alternatives = np.zeros((12, 3), bool)
        alternatives[:, 1:] = True
        is_open = either and label_id == 0
        found.append(LabelledSequence(inputs, np.full(12, label_id), alternatives=alternatives if is_open else None))
    return found


@pytest.mark.parametrize("row_steps", [None, 10])
def test_what_is_left_open_does_not_contradict_what_is_known(row_steps: int | None) -> None:
    options = FitOptions(
        hidden_dim=8, members=1, epochs=30, batch_size=8, input_dropout=0.0, dropout=0.0, row_steps=row_steps
    )
    stands = sequences_of(3, False)[2]
    score = {}
    for either in (False, True):
        classifier = fit(sequences_of(160, either), ("frame",), 3, options).classifier()
        score[either] = float(np.concatenate(list(classifier.scores([stands.inputs])))[:, 2].mean())
    assert score[False] < 0.65
    assert score[True] > 0.8


def test_rows_keep_them_beside_their_steps() -> None:
    sequences = []
    for number, n in enumerate((7, 12, 25)):
        alternatives = np.zeros((n, 4), bool)
        alternatives[np.arange(n), np.arange(n) % 4] = True
        steps = np.stack([np.full(n, number), np.arange(n)], axis=1).astype(np.float16)
        sequences.append(LabelledSequence(steps, np.full(n, number), alternatives=alternatives if number else None))
    for row_steps in (10, None):
        options = DrawOptions(batch_size=2, max_steps=64, min_crop=0.5, join=0.5, row_steps=row_steps)
        for seed in range(5):
            for batch in draw_batches(sequences, options, np.random.default_rng(seed)):
                for drawn in batch:
                    number, step = drawn.inputs.astype(int).T
                    expected = (step[:, None] % 4 == np.arange(4)) & (number > 0)[:, None]
                    found = np.zeros_like(expected) if drawn.alternatives is None else drawn.alternatives
                    assert np.array_equal(found, expected)


def test_another_choice_is_another_training() -> None:
    plain, either = sequences_of(8, False), sequences_of(8, True)
    assert purpose_of(plain, []) != purpose_of(either, [])
    assert purpose_of(either, []) == purpose_of(sequences_of(8, True), [])


def says_sit(logit: float) -> ActivityModel:
    """A model that gives `sit` a logit, and the others 0, whatever it sees."""
    model = ActivityModel(ModelSpec(("frame",), 4, 3, "majority")).eval()
    with torch.no_grad():
        next(model.parameters()).copy_(torch.tensor([0.0, logit, 0.0]))
    return model


def test_each_of_them_is_right() -> None:
    sequence = LabelledSequence(np.zeros((6, 4), np.float16), np.zeros(6, np.int64))
    item = Item(Annotation("v", BACKGROUND), 0, 0, 6)
    model, options = says_sit(math.log(2)), SegmentOptions()
    for others, is_right in (((), 0.0), ((2,), 0.0), ((1, 2), 1.0)):
        video = LabelledVideo("v", (sequence,), (replace(item, alternative_ids=others),))
        found = validate(model, [video], LABELS, 15.0, options)
        assert (found["accuracy"], found["frame_accuracy"], found["segment_f1"]) == (is_right, is_right, is_right)
    unseen = LabelledVideo("v", (), (replace(item, alternative_ids=(1, 2)),))
    assert validate(model, [unseen], LABELS, 15.0, options)["frame_accuracy"] == 0.0


def test_an_answer_that_may_be_right_contradicts_nothing() -> None:
    bundle = replace(load_bundle("jhmdb21-frame"), background=None)
    n = len(bundle.labels)
    inputs = np.zeros((6, 1280), np.float16)
    given = np.concatenate(list(bundle.classifier().scores([inputs]))).argmax(axis=1)
    others = given[:, None] == np.arange(n)
    for alternatives, agreed in ((None, 0), (others, 6)):
        sequence = LabelledSequence(inputs, (given + 1) % n, alternatives=alternatives)
        said, right = count_said(bundle, [LabelledVideo("v", (sequence,), ())])["v"]
        assert (said.sum(), right.sum()) == (6, agreed)


@pytest.mark.e2e
def test_a_lake_is_evaluated_by_what_may_be_right(table: Path, numbered: Path, tmp_path: Path) -> None:
    video, lake = str(numbered / "h264.mp4"), str(tmp_path / "lake")
    analyze([video], lake, config=Config(scope="frame"))
    segments = open_lake(lake).table("segments", ["label", "start_s", "end_s"]).to_pylist()
    longest = max(segments, key=lambda each: each["end_s"] - each["start_s"])
    table.write_text(f"video,label,or\n{video},dance,\n")
    assert evaluate_lake(lake, table).evaluation.figures["accuracy"].value == 0.0
    table.write_text(f"video,label,or\n{video},dance,sing|{longest['label']}\n")
    assert evaluate_lake(lake, table).evaluation.figures["accuracy"].value == 1.0


def test_a_temperature_counts_them_together() -> None:
    """Four of ten `sit`, three `sit` or something else, three `stand`: the likeliest score of `sit` is 0.63."""
    sequence = LabelledSequence(np.zeros((6, 4), np.float16), np.zeros(6, np.int64))
    sit, stand = (Item(Annotation("v", label), LABELS.index(label), 0, 6) for label in ("sit", "stand"))
    either = Item(Annotation("v", BACKGROUND), 0, 0, 6, (1,))
    items = [*[sit] * 4, *[either] * 3, *[stand] * 3]
    videos = [LabelledVideo(str(number), (sequence,), (item,)) for number, item in enumerate(items)]
    score = math.sqrt(0.4)
    temperature = fit_temperature([answers(says_sit(3.0), videos)])
    assert temperature == pytest.approx(3 / math.log(2 * score / (1 - score)), rel=1e-3)
