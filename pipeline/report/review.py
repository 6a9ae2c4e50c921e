"""The state of one review: the next segment, the answers, and the clips that the page plays."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict

import pyarrow.compute as pc

from pipeline.activity.bundle import BACKGROUND, EMBEDDED_BUNDLES, load_bundle
from pipeline.errors import UsageError
from pipeline.lake.query import LakeReader
from pipeline.report.cutting import LONGEST_S, Cut, CutOptions, Cutter
from pipeline.report.ordering import order
from pipeline.report.page import page_data
from pipeline.training.answers import Answer, AnswerBook, label_for

# Number of clips that are kept. The oldest are deleted first.
_KEPT_CLIPS = 100
_CLIP = re.compile(r"([0-9a-f]{16})/(\d{1,7})-(\d{1,7})\.(mp4|js)")
_LABEL_CHARS = 100


class _Box(TypedDict, total=False):
    """The bounding box of a person, in source pixels. Empty: the whole frame is meant."""

    x1: float
    y1: float
    x2: float
    y2: float


class StaleError(UsageError):
    """A request refers to an older state of the review than the current one."""


class Review:
    """A reviewer's pass through the segments of a lake. Its methods may be called from several threads."""

    def __init__(
        self,
        lake: LakeReader,
        uri: str,
        book: AnswerBook,
        reviewer: str,
        folder: Path,
        where: str | None = None,
        model: str | None = None,
        videos_root: str | None = None,
    ) -> None:
        """Choose the segments and their order.

        Args:
            lake: The lake.
            uri: The address of the lake.
            book: The file of the answers.
            reviewer: Name of the reviewer.
            folder: Folder of the clips during the review.
            where: A condition in SQL on the columns of `segments`. None: all of them.
            model: The model whose segments are reviewed. None: the only model.
            videos_root: Where the videos are now, if they were moved.

        Raises:
            UsageError: There is no such model, or no segment meets the condition.
        """
        self._lake, self._book, self._reviewer, self._folder = lake, book, reviewer, folder
        self._segments = lake.segments(where, model)
        if not self._segments.num_rows:
            raise UsageError(f"{uri}: no segment {'meets --where' if where else 'in it'}; there is nothing to review")
        rows = self._segments.to_pylist()
        self._queue = [(rows[number]["segment_id"], drawn) for number, drawn in order(rows)]
        self._drawn = dict(self._queue)
        self._rows: dict[str, dict[str, Any]] = {row["segment_id"]: row for row in rows}
        self._of_people = any(row["track_id"] is not None for row in rows)
        names = ["video_id", "uri", "size_bytes", "duration_s"]
        self._videos = {row["video_id"]: row for row in lake.table("videos", names).to_pylist()}
        self._labels = _labels(lake, rows[0]["model"], book.answers)
        self._skipped: list[str] = []
        # The actions of this review, `skip` or `answer`, the last one at the end.
        self._done: list[str] = []
        # Grows with every change. A request names the version that was on the screen.
        self._version = 0
        self._tracks: dict[Answer, int | None] = {}
        self._cutter = Cutter(CutOptions(uri, str(folder), videos_root, rows[0]["model"]))
        self._answering, self._cutting = threading.Lock(), threading.Lock()

    def page(self, title: str) -> dict[str, Any]:
        """Return the content of the page."""
        review = {
            "reviewer": self._reviewer, "file": self._book.path.name, "longest_s": LONGEST_S,
        }  # fmt: skip
        return page_data(self._lake, self._segments, title, review=review)

    def state(self, said: str = "", undone: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the progress of the review, and the next segment."""
        given = {answer.about: answer for answer in self._book.answers}
        answers = {
            each: given[about]
            for each, row in self._rows.items()
            if (about := (row["model"], each, round(row["start_s"], 3))) in given
        }
        waiting = [each for each, _ in self._queue if each not in answers]
        following = [each for each in waiting if each not in self._skipped] or waiting
        drawn = [answer for answer in answers.values() if answer.drawn == "random"]
        right = sum(answer.is_right for answer in drawn)
        return {
            "version": self._version,
            "answered": {each: answer.verdict for each, answer in answers.items()},
            "moved": {
                each: [answer.start_s, answer.end_s]
                for each, answer in answers.items()
                if not (_same(answer.start_s, answer.found_start_s) and _same(answer.end_s, answer.found_end_s))
            },
            "new": [
                {"video_id": answer.video_id, "track_id": self._track_of(answer), "label": answer.label,
                 "start_s": answer.start_s, "end_s": answer.end_s}
                for answer in self._book.answers
                if answer.verdict == "new"
            ],
            "n_answered": len(answers),
            "labels": self._labels,
            "n_left": len(waiting),
            "next": following[0] if following else None,
            "random": f"of {len(drawn)} drawn at random {right} are right" if drawn else "",
            "said": said,
            "undone": undone,
        }  # fmt: skip

    def answer(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Write an answer, and return the new state.

        Args:
            given: `version` of the state that it answers, `verdict`, `start_s`, `end_s`, `label` if the verdict
                needs one, and either `segment_id`, or for a new segment `video_id` and `track_id`.

        Raises:
            StaleError: There is a later state.
            UsageError: The answer is not valid, or can't be written.
        """
        verdict = str(given.get("verdict", ""))
        start_s, end_s = (_seconds(given, name) for name in ("start_s", "end_s"))
        if end_s <= start_s:
            raise UsageError(f"it would end at {end_s:g} s, before its start at {start_s:g} s")
        named = given.get("label")
        if named is not None and (not isinstance(named, str) or len(named) > _LABEL_CHARS):
            raise UsageError(f"a label is a text of at most {_LABEL_CHARS} letters")
        with self._answering:
            self._check_version(given)
            if verdict == "new":
                answer = self._of_new(given, start_s, end_s, self._known(label_for(verdict, "", named)))
            else:
                answer = self._of_found(given, start_s, end_s, verdict, named)
            self._book.add(answer)
            self._done.append("answer")
            self._version += 1
            if answer.label not in (*self._labels, BACKGROUND):
                self._labels = sorted([*self._labels, answer.label])
            return self.state(f"saved: {answer.label}, {start_s:.2f} to {end_s:.2f} s ({verdict})")

    def skip(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Move a segment to the end of the review. `given` has its `segment_id`, and the `version` of the state.

        Raises:
            StaleError: There is a later state.
        """
        with self._answering:
            self._check_version(given)
            self._skipped.append(str(given.get("segment_id")))
            self._done.append("skip")
            self._version += 1
            return self.state("skipped")

    def undo(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Undo the last skip of this review, or the last answer, even one of an earlier review.

        Args:
            given: The `version` of the state.

        Raises:
            StaleError: There is a later state.
            UsageError: The file can't be written.
        """
        with self._answering:
            self._check_version(given)
            self._version += 1
            if self._done and self._done[-1] == "skip":
                self._done.pop()
                undone: dict[str, Any] = {"segment_id": self._skipped.pop(), "start_s": None, "end_s": None}
                return self.state("no longer skipped", undone)
            taken = self._book.undo()
            if taken is None:
                return self.state("there is nothing to undo")
            self._done = self._done[:-1]
            undone = {"segment_id": taken.segment_id, "start_s": taken.start_s, "end_s": taken.end_s}
            return self.state(f"taken back: {taken.label} ({taken.verdict})", undone)

    def clip(self, name: str) -> Path:
        """Return the file of a clip, or of the positions of people in it. The clip is cut if it does not exist yet.

        Args:
            name: `<video_id>/<start>-<end>` in whole seconds, with the suffix `.mp4` or `.js`.

        Raises:
            UsageError: There is no such video in the lake, or its clip can't be cut.
        """
        match = _CLIP.fullmatch(name)
        video = self._videos.get(match[1]) if match else None
        if match is None or video is None:
            raise UsageError("no such clip")
        start_s, end_s = float(match[2]), float(match[3])
        if not 0 < end_s - start_s <= LONGEST_S:
            raise UsageError(f"a clip lasts at most {LONGEST_S:g} s")
        stem = f"{match[1]}/{match[2]}-{match[3]}"
        with self._cutting:
            path = self._folder / f"{stem}.{match[4]}"
            if not path.exists():
                cut = Cut(stem, match[1], video["uri"], video["size_bytes"], start_s, end_s)
                result = self._cutter.cut(cut)
                if result.failure:
                    raise UsageError(result.failure)
                self._forget_oldest()
        return path

    def _of_found(
        self, given: Mapping[str, Any], start_s: float, end_s: float, verdict: str, named: str | None
    ) -> Answer:
        row = self._rows.get(str(given.get("segment_id")))
        if row is None:
            raise UsageError("there is no such segment")
        label = self._known(label_for(verdict, row["label"], named))
        box = self._box(row["video_id"], row["track_id"], start_s, end_s)
        answer = Answer(
            row["uri"], start_s, end_s, label, verdict, video_id=row["video_id"], segment_id=row["segment_id"],
            found_label=row["label"], found_start_s=row["start_s"], found_end_s=row["end_s"],
            found_score=row["score"], model=row["model"], drawn=self._drawn[row["segment_id"]],
            reviewer=self._reviewer,
        )  # fmt: skip
        return replace(answer, **box)

    def _of_new(self, given: Mapping[str, Any], start_s: float, end_s: float, label: str) -> Answer:
        video = self._videos.get(str(given.get("video_id")))
        if video is None:
            raise UsageError("there is no such video")
        track_id = given.get("track_id")
        box = self._box(video["video_id"], track_id if isinstance(track_id, int) else None, start_s, end_s)
        if self._of_people and not box:
            raise UsageError("nobody is chosen who is in sight then; click the lane of the person whom it is about")
        answer = Answer(video["uri"], start_s, end_s, label, "new", video_id=video["video_id"], reviewer=self._reviewer)
        return replace(answer, **box)

    def _check_version(self, given: Mapping[str, Any]) -> None:
        if given.get("version") != self._version:
            raise StaleError("meanwhile another window of this review wrote; look again at what is shown now")

    def _known(self, label: str) -> str:
        """Return the known spelling of a label, whatever its case: `Kneel` is the same label as `kneel`."""
        return next((known for known in self._labels if known.casefold() == label.casefold()), label)

    def _box(self, video_id: str, track_id: int | None, start_s: float, end_s: float) -> _Box:
        """Return the mean box of a track over a span. It identifies the person in any lake of the video."""
        if track_id is None:
            return {}
        seen = (pc.field("track_id") == track_id) & (pc.field("pts_s") >= start_s) & (pc.field("pts_s") < end_s)
        boxes = self._lake.rows_of("detections", video_id, ["x1", "y1", "x2", "y2"], seen)
        if not boxes.num_rows:
            return {}
        x1, y1, x2, y2 = (float(pc.mean(column).as_py()) for column in boxes.columns)
        return {"x1": x1, "y1": y1, "x2": x2, "y2": y2}

    def _track_of(self, answer: Answer) -> int | None:
        """Return the track of an answer about a new segment: the one nearest to the answer's box."""
        if answer.x1 is None:
            return None
        if answer not in self._tracks:
            names = ("x1", "y1", "x2", "y2")
            seen = (pc.field("pts_s") >= answer.start_s) & (pc.field("pts_s") < answer.end_s)
            boxes = self._lake.rows_of("detections", answer.video_id, ["track_id", *names], seen)
            means = boxes.group_by("track_id").aggregate([(name, "mean") for name in names]).to_pylist()

            def apart(row: Mapping[str, Any]) -> float:
                return float(sum(abs(row[f"{name}_mean"] - getattr(answer, name)) for name in names))

            followed = [row for row in means if row["track_id"] is not None]
            self._tracks[answer] = min(followed, key=apart)["track_id"] if followed else None
        return self._tracks[answer]

    def _forget_oldest(self) -> None:
        clips = sorted(self._folder.rglob("*.mp4"), key=lambda path: path.stat().st_mtime)
        for path in clips[: max(0, len(clips) - _KEPT_CLIPS)]:
            path.with_suffix(".js").unlink(missing_ok=True)
            path.unlink()


def _labels(lake: LakeReader, model: str, answers: Iterable[Answer]) -> list[str]:
    """Return the labels to choose from: those of the model's segments, of a bundled model, and of the answers."""
    labels = set(lake.table("segments", ["label"], pc.field("model") == model)["label"].to_pylist())
    if model in EMBEDDED_BUNDLES:
        labels.update(load_bundle(model).labels)
    return sorted(labels.union(answer.label for answer in answers) - {BACKGROUND})


def _same(one: float, other: float | None) -> bool:
    """Whether two times are equal at the precision of the file."""
    return other is not None and abs(one - other) < 1e-3


def _seconds(given: Mapping[str, Any], name: str) -> float:
    value = given.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e7:
        raise UsageError(f"{name} = {value!r} is no number of seconds")
    return float(value)
