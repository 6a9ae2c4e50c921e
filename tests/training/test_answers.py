"""Answers are labels: read by every command that reads labels, of the person who is meant, and compared by kappa."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import UsageError
from pipeline.lake.query import open_lake
from pipeline.training.answers import Answer, AnswerBook, agreement, label_for, read_answers
from pipeline.training.cases import evaluate_lake
from pipeline.training.formats import read_annotations
from tests.shown import make_lake
from tests.test_cli import run

BASE = Answer("/v/a.mp4", 1.0, 2.5, "walk", "right", segment_id="s1")


def answers_of(labels: str) -> list[Answer]:
    return [dataclasses.replace(BASE, label=label, segment_id=str(n)) for n, label in enumerate(labels)]


def test_a_file_of_answers_is_a_file_of_labels(tmp_path: Path) -> None:
    path = tmp_path / "answers.csv"
    boxed = dataclasses.replace(BASE, x1=1.0, y1=2.0, x2=30.25, y2=40.0, label='a "b", c', segment_id="s2")
    with AnswerBook(path, ["/v/a.mp4"]) as book:
        book.add(BASE)
        book.add(boxed)
    plain, other = read_annotations(path)
    assert (plain.video, plain.start_s, plain.end_s, plain.label, plain.box) == ("/v/a.mp4", 1.0, 2.5, "walk", None)
    assert (other.label, other.box) == ('a "b", c', (1.0, 2.0, 30.25, 40.0))
    again = read_answers(path)
    assert [dataclasses.replace(answer, answered_at="") for answer in again] == [BASE, boxed]


def test_two_people_may_do_the_same_at_the_same_time(tmp_path: Path) -> None:
    path = tmp_path / "answers.csv"
    with AnswerBook(path, ["/v/a.mp4"]) as book:
        for n in (1, 2):
            book.add(dataclasses.replace(BASE, x1=100.0 * n, y1=0.0, x2=100.0 * n + 50, y2=90.0, segment_id=f"s{n}"))
    assert len(read_annotations(path)) == 2


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("/v/a.mp4,x,2,walk,right", "line 2: start_s = 'x' is no number"),
        ("/v/a.mp4,1,2,walk,perhaps", "line 2: lacks start_s, end_s, or a verdict"),
        ("/v/a.mp4,,2,walk,right", "line 2: lacks start_s"),
    ],
)
def test_damaged_answers_are_told_with_their_line(tmp_path: Path, row: str, words: str) -> None:
    path = tmp_path / "answers.csv"
    with AnswerBook(path, []) as book:
        book.add(BASE)
    heading = path.read_text().splitlines()[0]
    path.write_text(f"{heading}\n{row}{',' * (heading.count(',') - 4)}\n")
    with pytest.raises(UsageError, match=words):
        read_answers(path)


def test_a_box_that_is_no_box_is_told(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("video,start_s,end_s,label,x1,y1,x2,y2\na.mp4,0,1,walk,1,2,left,4\n")
    with pytest.raises(UsageError, match="line 2: x1, y1, x2, y2 = 1, 2, left, 4 are no numbers of pixels"):
        read_annotations(path)


@pytest.mark.parametrize(("box", "words"), [("0.1,0.2,0.5,0.9", "are shares"), ("5,2,1,4", "no left, top, right")])
def test_a_box_is_in_pixels(tmp_path: Path, box: str, words: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(f"video,start_s,end_s,label,x1,y1,x2,y2\na.mp4,0,1,walk,{box}\n")
    with pytest.raises(UsageError, match=words):
        read_annotations(path)


def test_kappa_by_hand() -> None:
    # Cohen (1960): 20 both yes, 5 and 10 apart, 15 both no: 0.7 agree, 0.5 by chance.
    one = answers_of("y" * 20 + "y" * 5 + "n" * 10 + "n" * 15)
    other = answers_of("y" * 20 + "n" * 5 + "y" * 10 + "n" * 15)
    found = agreement(one, [*other, dataclasses.replace(BASE, segment_id="alone")])
    assert found.n_both == 50
    assert found.by_label["all labels"] == (50, pytest.approx(0.7), pytest.approx(0.4))
    assert found.by_label["y"] == (35, pytest.approx(0.7), pytest.approx(0.4))
    assert found.pairs == {("y", "y"): 20, ("y", "n"): 5, ("n", "y"): 10, ("n", "n"): 15}
    assert agreement(one, one).by_label["all labels"][1:] == (1.0, 1.0)
    assert math.isnan(agreement(answers_of("yy"), answers_of("yy")).by_label["y"][2])
    assert agreement(one, []).n_both == 0


def test_two_reviewers_are_compared_label_by_label(tmp_path: Path) -> None:
    """The rows are those of the first; a label's name may hold what a terminal would obey."""
    for name, labels in (("ann", "yyyn["), ("ben", "yynn[")):
        with AnswerBook(tmp_path / f"{name}.csv", [BASE.video]) as book:
            for answer in answers_of(labels):
                book.add(answer)
    shown = run("agreement", tmp_path / "ann.csv", tmp_path / "ben.csv").stdout.decode()
    assert "rows: labels of ann.csv; columns: those of ben.csv" in shown
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in shown.splitlines() if line[:1] == "│"]
    assert rows[-3:] == [["1 [", "1", "", ""], ["2 n", "", "1", ""], ["3 y", "", "1", "2"]]


def test_what_verdicts_mean() -> None:
    assert label_for("right", "walk", None) == "walk"
    assert label_for("wrong", "walk", "ignored") == "background"
    assert label_for("label", "walk", " run ") == "run"


def test_only_the_person_who_is_meant_is_evaluated(tmp_path: Path) -> None:
    """Both walk to the right, and are said to walk, sit and fall; that one sits all the time is right for a third."""
    lake = make_lake(tmp_path, 1)
    (uri,) = open_lake(str(lake)).table("videos")["uri"].to_pylist()
    box = {"x1": 109.0, "y1": 40.0, "x2": 149.0, "y2": 140.0}  # The mean of where person 1 is.
    path = tmp_path / "answers.csv"
    with AnswerBook(path, [uri]) as book:
        book.add(dataclasses.replace(BASE, video=uri, start_s=0.0, end_s=6.0, label="sit", **box))
    figures = evaluate_lake(str(lake), path).evaluation.figures
    assert figures["frame_accuracy"].value == pytest.approx(1 / 3, abs=0.02)
    path.unlink()
    far = {"x1": 300.0, "y1": 0.0, "x2": 310.0, "y2": 10.0}
    with AnswerBook(path, [uri]) as book:
        book.add(dataclasses.replace(BASE, video=uri, start_s=2.0, end_s=4.0, label="sit", **far))
    assert evaluate_lake(str(lake), path).evaluation.figures["frame_accuracy"].value == 0
    assert np.isfinite(figures["f1@25"].value)
