"""The answers of reviewers about a lake's segments: a table in our own label format, rewritten at every answer."""

from __future__ import annotations

import csv
import datetime
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pipeline.activity.bundle import BACKGROUND
from pipeline.errors import UsageError
from pipeline.training.formats.rows import Row, read_table

VERDICTS = ("right", "wrong", "label", "new")
"""What an answer says: the segment is right; no label fits; another label fits; there was no segment here."""


@dataclass(frozen=True)
class Answer:
    """The answer of one reviewer about one segment. The first four columns can also be read as plain labels."""

    video: str
    """URI, as the lake knows it."""
    start_s: float
    end_s: float
    label: str
    """What is done there; `background` if no label fits."""
    verdict: str
    """One of `VERDICTS`."""
    x1: float | None = None
    """Whom it is about: the mean box over the span, in source pixels. None: the whole frame."""
    y1: float | None = None
    x2: float | None = None
    y2: float | None = None
    video_id: str = ""
    segment_id: str = ""
    """The segment that it is about; empty if there was none."""
    found_label: str = ""
    """The label that the model gave."""
    found_start_s: float | None = None
    found_end_s: float | None = None
    found_score: float | None = None
    model: str = ""
    drawn: str = ""
    """How the segment was chosen: `random`, or `asked` if much was expected to be learnt from it."""
    reviewer: str = ""
    answered_at: str = ""
    """UTC, by ISO 8601."""

    @property
    def about(self) -> tuple[str, str, float | None] | None:
        """The segment that it is about. The id holds for one model and one labelling by it. None: a new segment."""
        start_s = None if self.found_start_s is None else round(self.found_start_s, 3)
        return (self.model, self.segment_id, start_s) if self.segment_id else None

    @property
    def is_right(self) -> bool:
        """Whether the model's label was right, wherever the segment starts and ends."""
        return self.verdict == "right"


COLUMNS = tuple(field.name for field in fields(Answer))
_NUMBERS = tuple(field.name for field in fields(Answer) if "float" in str(field.type))


class AnswerBook:
    """The answers of one reviewer in one file, which is locked against other writers. A context manager."""

    def __init__(self, path: str | Path, video_uris: Iterable[str]) -> None:
        """Open a file of answers. If there is none, the first answer creates it.

        Args:
            path: The file.
            video_uris: The videos of the lake; answers about others belong to another lake.

        Raises:
            UsageError: Another review writes to the file, it is not a file of answers, or it belongs to another lake.
        """
        self.path = Path(path)
        self._lock = FileLock(f"{self.path}.lock")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise UsageError(
                f"{self.path}: another review writes to it; give each reviewer a file of their own by --answers"
            ) from error
        except OSError as error:
            raise UsageError(f"{self.path}: can't be written to ({error.strerror})") from error
        try:
            self.answers: list[Answer] = read_answers(self.path) if self.path.exists() else []
            known = set(video_uris)
            for answer in self.answers:
                if answer.video not in known:
                    raise UsageError(f"{self.path}: is of another lake: its {answer.video} is not in this one")
        except UsageError:
            self.close()
            raise
        # The list of answers before each `add`, for undo.
        self._before: list[list[Answer]] = []

    def __enter__(self) -> AnswerBook:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let others write to the file."""
        # Removed while the lock is held, so that nobody else's lock file is removed.
        with suppress(OSError):
            os.unlink(f"{self.path}.lock")
        self._lock.release()

    def add(self, answer: Answer) -> None:
        """Write an answer. It replaces an earlier one about the same segment. On return it is on disk.

        Raises:
            UsageError: The file can't be written; then all is as before.
        """
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        kept = [each for each in self.answers if answer.about is None or each.about != answer.about]
        before = self.answers
        self._write([*kept, replace(answer, answered_at=now)])
        self._before.append(before)

    def undo(self) -> Answer | None:
        """Remove the last answer, even if it is of an earlier review, and return it. None: there is none.

        Raises:
            UsageError: The file can't be written; then all is as before.
        """
        if not self.answers:
            return None
        taken = self.answers[-1]
        self._write(self._before[-1] if self._before else self.answers[:-1])
        if self._before:
            self._before.pop()
        return taken

    def _write(self, answers: list[Answer]) -> None:
        """Replace the file atomically, so that it stays complete if this process or the machine dies."""
        part = self.path.with_name(f"{self.path.name}.part")
        try:
            with open(part, "w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(COLUMNS)
                writer.writerows([_cell(getattr(answer, name)) for name in COLUMNS] for answer in answers)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, self.path)
            _sync_folder(self.path.parent)
        except OSError as error:
            with suppress(OSError):
                part.unlink()
            raise UsageError(
                f"{self.path}: can't be written ({error.strerror or error}); make room, and go on"
            ) from error
        self.answers = answers


def read_answers(path: str | Path) -> list[Answer]:
    """Read a file of answers.

    Raises:
        UsageError: It can't be read, or is another kind of table.
    """
    table = read_table(Path(path))
    missing = [name for name in COLUMNS if name not in table.headings]
    if missing:
        raise UsageError(f"{path}: no file of answers, for it has no column {missing[0]}; name one that `review` wrote")
    return [_read(row) for row in table.rows]


@dataclass(frozen=True)
class Agreement:
    """How far two reviewers agree on the segments that both have answered."""

    by_label: dict[str, tuple[int, float, float]]
    """For each label, and for `all labels` together: the number of segments to which at least one reviewer gave it, the
    share on which both agree about it, and Cohen's kappa (Cohen 1960). Kappa is 0 if they agree as often as by chance,
    and not a number if chance alone would always agree."""
    pairs: Counter[tuple[str, str]]
    """Number of segments by the first reviewer's label and the second reviewer's label."""

    @property
    def n_both(self) -> int:
        """How many segments both have answered."""
        return self.pairs.total()


def agreement(one: Sequence[Answer], other: Sequence[Answer]) -> Agreement:
    """Return how far two reviewers agree on the segments that both have answered."""
    answers = [{each.about: each.label for each in part if each.about} for part in (one, other)]
    both = answers[0].keys() & answers[1].keys()
    pairs = [(answers[0][segment], answers[1][segment]) for segment in both]
    labels = sorted({label for pair in pairs for label in pair})
    found = {"all labels": (len(pairs), *_kappa(pairs))}
    for label in labels:
        of_label = [(a == label, b == label) for a, b in pairs]
        found[label] = (sum(a or b for a, b in of_label), *_kappa(of_label))
    return Agreement(found, Counter(pairs))


def _kappa(pairs: Sequence[tuple[Any, Any]]) -> tuple[float, float]:
    if not pairs:
        return float("nan"), float("nan")
    n = len(pairs)
    same = sum(a == b for a, b in pairs) / n
    values = {value for pair in pairs for value in pair}
    chance = sum(sum(a == v for a, _ in pairs) * sum(b == v for _, b in pairs) for v in values) / n**2
    return same, (same - chance) / (1 - chance) if chance < 1 else float("nan")


def label_for(verdict: str, found_label: str, named: str | None) -> str:
    """Return the label that a verdict gives a span.

    Raises:
        UsageError: The verdict is unknown, or names no label where it must.
    """
    if verdict not in VERDICTS:
        raise UsageError(f"verdict {verdict!r} is not one of {', '.join(VERDICTS)}")
    if verdict == "right":
        return found_label
    if verdict == "wrong":
        return BACKGROUND
    if not named or not named.strip():
        raise UsageError("the label is empty")
    return named.strip()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.3f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def _read(row: Row) -> Answer:
    cells: Mapping[str, str] = row.cells
    values: dict[str, Any] = {name: cells.get(name, "") for name in COLUMNS}
    for name in _NUMBERS:
        try:
            values[name] = float(values[name]) if values[name] else None
        except ValueError:
            raise UsageError(f"{row.where}: {name} = {values[name]!r} is no number") from None
    if values["start_s"] is None or values["end_s"] is None or values["verdict"] not in VERDICTS:
        raise UsageError(f"{row.where}: lacks start_s, end_s, or a verdict ({', '.join(VERDICTS)}); fix or remove it")
    return Answer(**values)


def _sync_folder(folder: Path) -> None:
    """Write the new name of a file to disk, too."""
    # Not every file system can do this. The file itself is already on disk.
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
