"""From a lake and labels to figures, JSON and plots."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.errors import UsageError
from pipeline.report.evaluation import write_evaluation
from pipeline.training.cases import evaluate_lake
from tests.lakes import lake_of_segments
from tests.test_cli import run, text, usage_error


def segment(uri: str, label: str, start_s: float, end_s: float, score: float, **more: object) -> dict[str, object]:
    return {"uri": uri, "label": label, "start_s": start_s, "end_s": end_s, "score": score, "scope": "frame", **more}


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    """Walks of a.mp4 and b.mp4 found half and wholly, a fall taken for a walk, a video that nobody annotated."""
    segments = [
        segment("/v/x/a.mp4", "walk", 0.0, 2.0, 0.8),
        segment("/v/x/b.mp4", "walk", 1.0, 5.0, 0.9),
        segment("/v/y/c.mp4", "walk", 0.0, 3.0, 0.6),
        segment("/v/y/d.mp4", "swim", 0.0, 3.0, 0.6),
    ]
    return lake_of_segments(
        tmp_path / "lake", {"/v/x/a.mp4": 4.0, "/v/x/b.mp4": 6.0, "/v/y/c.mp4": 3.0, "/v/y/d.mp4": 3.0}, segments
    )


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    path = tmp_path / "labels.csv"
    path.write_text(
        "video,start_s,end_s,label,split1,split2\n"
        "x/a.mp4,0,4,walk,test,train\nb.mp4,1,5,walk,test,test\nc,,,fall,test,train\nc.mp4,0,1,walk,test,train\n"
    )
    return path


def test_a_lake_against_labels(lake: Path, labels: Path) -> None:
    found = evaluate_lake(str(lake), labels, n_draws=20)
    evaluation = found.evaluation
    assert (found.model, found.n_missing, evaluation.n_videos, evaluation.n_spans) == ("m", 0, 3, 4)
    # `swim` is found in a video that is not annotated.
    assert evaluation.labels == ("fall", "walk")
    # The fall, which lasts to the end of c.mp4, was taken for a walk.
    assert evaluation.confusion == [[0, 1, 0], [0, 3, 0]]
    # 20 of 40 steps, 40 of 40; in c.mp4 the walk starts as the fall does, is named later, and counts for ten of 30.
    assert evaluation.figures["frame_accuracy"].value == pytest.approx((20 + 40 + 10) / (40 + 40 + 30))
    assert evaluation.figures["accuracy"].low <= 0.75 <= evaluation.figures["accuracy"].high
    assert evaluation.per_label["walk"]["n_true"] == 3


def test_an_event_of_one_moment_is_one_step(lake: Path, labels: Path) -> None:
    """One step right, one at the very start wrong, none of them the whole video."""
    labels.write_text("video,start_s,end_s,label\nb.mp4,2.07,2.07,walk\nb.mp4,0,0,fall\n")
    evaluation = evaluate_lake(str(lake), labels, n_draws=5).evaluation
    assert (evaluation.n_spans, evaluation.figures["accuracy"].value) == (2, 0.5)
    assert evaluation.figures["frame_accuracy"].value == 0.5


def test_one_split_and_videos_that_are_missing(lake: Path, labels: Path) -> None:
    only = evaluate_lake(str(lake), labels, split="split2", n_draws=5).evaluation
    assert (only.n_videos, only.figures["accuracy"].value) == (1, 1.0)
    with pytest.raises(UsageError, match="no split 'split9' in it, but split1, split2"):
        evaluate_lake(str(lake), labels, split="split9")
    with labels.open("a") as file:
        file.write("gone.mp4,0,1,walk,test,train\n")
    with pytest.raises(UsageError, match=r"labels\.csv, line 6: no video 'gone\.mp4' in lake"):
        evaluate_lake(str(lake), labels)
    assert evaluate_lake(str(lake), labels, partial=True, n_draws=5).n_missing == 1
    labels.write_text("video,label\ngone.mp4,walk\n")
    with pytest.raises(UsageError, match="none of its videos is in lake"):
        evaluate_lake(str(lake), labels, partial=True)


def test_whose_segments(tmp_path: Path, labels: Path) -> None:
    uris = {"/v/x/a.mp4": 4.0, "/v/x/b.mp4": 6.0, "/v/y/c.mp4": 3.0}
    segments = [segment("/v/x/a.mp4", "walk", 0.0, 4.0, 0.9, model="n")]
    lake = str(lake_of_segments(tmp_path / "two", uris, segments, ("m", "n")))
    with pytest.raises(UsageError, match="labelled by m, n; name one with --model"):
        evaluate_lake(lake, labels)
    with pytest.raises(UsageError, match="not labelled by 'o', but by m, n"):
        evaluate_lake(lake, labels, "o")
    assert evaluate_lake(lake, labels, "m", n_draws=5).evaluation.figures["accuracy"].value == 0.0
    assert evaluate_lake(lake, labels, "n", n_draws=5).evaluation.figures["accuracy"].value == 0.25
    with pytest.raises(UsageError, match="no model has labelled it"):
        evaluate_lake(str(lake_of_segments(tmp_path / "none", uris, [], ())), labels)


def test_the_larger_person_decides(tmp_path: Path) -> None:
    box = {"small": (0.0, 0.0, 10.0, 20.0), "large": (0.0, 0.0, 100.0, 200.0)}
    segments = []
    for number, (label, size) in enumerate((("run", "small"), ("walk", "large"), ("run", "small"))):
        xyxy = dict(zip(("x1", "y1", "x2", "y2"), box[size], strict=True))
        segments.append(segment("/v/a.mp4", label, 0.0, 4.0, 0.9, track_id=number, **xyxy))
    labels = tmp_path / "labels.csv"
    labels.write_text("video,label\na.mp4,walk\n")
    lake = lake_of_segments(tmp_path / "people", {"/v/a.mp4": 4.0}, segments)
    assert evaluate_lake(str(lake), labels, n_draws=2).evaluation.figures["frame_accuracy"].value == 1.0


def test_plots_show_what_was_measured(lake: Path, labels: Path, tmp_path: Path) -> None:
    found = evaluate_lake(str(lake), labels, n_draws=5)
    paths = write_evaluation(found, tmp_path / "out")
    assert [path.name for path in paths] == ["evaluation.json", "confusion.png", "reliability.png", "labels.png"]
    record = json.loads(paths[0].read_text())
    assert record["figures"]["accuracy"]["value"] == 0.75
    assert record["confusion"] == [[0, 1, 0], [0, 3, 0]]
    for path in paths[1:]:
        picture = cv2.imread(str(path))
        assert min(picture.shape[:2]) > 300
        assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 20
    # Both rows of the confusion matrix are all `walk`: the darkest blue of the map, as large as two of its cells.
    confusion = cv2.imread(str(paths[1]))
    dark = (np.abs(confusion.astype(int) - (107, 48, 8)) < 12).all(axis=-1)
    assert dark.mean() > 0.05
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="can't be written to"):
        write_evaluation(found, tmp_path / "file" / "out")


def test_the_command_prints_figures_and_says_what_is_wrong(lake: Path, labels: Path, tmp_path: Path) -> None:
    done = run("evaluate", "--lake", lake, labels, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr.decode()
    said = text(done.stdout)
    assert "4 spans in 3 videos" in said
    assert "0.750" in said
    assert "confusion.png" in said
    assert "no split 'odd'" in usage_error("evaluate", "--lake", lake, labels, "--split", "odd")
    assert "known are csv, folders, boris, activitynet" in usage_error(
        "evaluate", "--lake", lake, labels, "--format", "odd"
    )
