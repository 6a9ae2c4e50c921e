"""Compare what packed networks find in clips with what the exact ones find, and with labels."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from pipeline.edge.footage import Picture, pictures
from pipeline.edge.networks import load_networks
from pipeline.edge.runner import segments
from pipeline.lake.examples import iou

# Two boxes show the same person if their IoU is at least this.
_SAME_PERSON = 0.3
# This many pictures suffice to see whether networks agree. If clips are labelled, all of their pictures are used.
_MOST_PICTURES = 600
_EXACT = "openvino", "f32"
_RUNTIME = {"openvino": "openvino", "onnx": "onnxruntime"}

Span = tuple[str, float, float]
"""Label, start and end in seconds."""


@dataclass(frozen=True)
class Clip:
    """A clip of the user."""

    path: str
    spans: tuple[Span, ...] = ()
    """The labelled spans in it, if there are any."""


@dataclass(frozen=True)
class Outcome:
    """The results of one kind of networks on clips."""

    HEADINGS: ClassVar[tuple[str, ...]] = ("agrees", "labelled time right", "pictures/s")
    EXPLAINED: ClassVar[str] = (
        "*Agrees*: the F1 score of the seconds of segments, compared with the exact networks (f32): the same label at "
        "the same time and place. *Labelled time right*: the share of the labelled seconds in which a segment has the "
        "same label. *Pictures/s*: pictures per second on one core of the machine that packed it, decoding included."
    )

    runtime: str
    precision: str
    agreement: float
    right: float | None
    """None if there are no labels."""
    pictures_per_s: float

    def cells(self) -> list[str]:
        """Return the figures as they are printed."""
        right = "" if self.right is None else f"{self.right:.3f}"
        return [f"{self.agreement:.3f}", right, f"{self.pictures_per_s:.1f}"]


def compare(
    folder: Path,
    told: dict[str, Any],
    clips: Sequence[Clip],
    kinds: Sequence[tuple[str, str]],
    notify: Callable[[str], None],
) -> list[Outcome]:
    """Run each kind of a pack's networks over clips.

    Args:
        folder: The pack; it holds `openvino/f32`.
        told: The content of `pack.json`.
        clips: The user's clips.
        kinds: Runtime and precision of each.
        notify: Called with messages about the progress.
    """
    if not clips:
        return []
    measured = {_EXACT: _found(folder, told, clips, _EXACT)}
    exact, _ = measured[_EXACT]
    outcomes = []
    for runtime, precision in kinds:
        notify(f"measuring {runtime}, {precision}")
        kind = runtime, precision
        found, speed = measured[kind] if kind in measured else _found(folder, told, clips, kind)
        outcomes.append(Outcome(runtime, precision, _agreement(exact, found), _right(clips, found), speed))
    return outcomes


_Segments = list[list[dict[str, Any]]]


def _found(folder: Path, told: dict[str, Any], clips: Sequence[Clip], kind: tuple[str, str]) -> tuple[_Segments, float]:
    """Return the segments of each clip, and the number of pictures per second of CPU time."""
    networks = load_networks(folder, _RUNTIME[kind[0]], kind[1])
    found: _Segments = []
    n_pictures = 0
    started = time.process_time()
    labelled = any(clip.spans for clip in clips)

    def counted(source: Iterable[Picture]) -> Iterator[Picture]:
        nonlocal n_pictures
        for picture in source:
            n_pictures += 1
            yield picture

    for clip in clips:
        found.append([])
        with suppress(OSError):
            footage = pictures(clip.path, told["sample_fps"], told["frame_px"])
            some = footage if labelled else islice(footage, max(0, _MOST_PICTURES - n_pictures))
            found[-1] += segments(counted(some), footage.fps, told, networks)
    return found, n_pictures / max(1e-6, time.process_time() - started)


def _agreement(exact: _Segments, found: _Segments) -> float:
    """Return the F1 score of seconds, with the exact networks as truth; 1 if both found nothing."""
    shared, total = 0.0, 0.0
    for expected, here in zip(exact, found, strict=True):
        total += sum(each["end_s"] - each["start_s"] for each in (*expected, *here))
        for one in expected:
            box = np.array(one["box"])
            alike = [each for each in here if each["label"] == one["label"]]
            near = [each for each in alike if iou(np.array(each["box"]), box) >= _SAME_PERSON]
            shared += max((_overlap(one, each) for each in near), default=0.0)
    return 2 * shared / total if total else 1.0


def _right(clips: Sequence[Clip], found: _Segments) -> float | None:
    """Return the share of labelled seconds in which a segment has the same label; None without labels."""
    total, right = 0.0, 0.0
    for clip, here in zip(clips, found, strict=True):
        for label, start_s, end_s in clip.spans:
            total += end_s - start_s
            span = {"start_s": start_s, "end_s": end_s}
            right += min(end_s - start_s, sum(_overlap(span, each) for each in here if each["label"] == label))
    return right / total if total else None


def _overlap(one: dict[str, Any], other: dict[str, Any]) -> float:
    return max(0.0, float(min(one["end_s"], other["end_s"]) - max(one["start_s"], other["start_s"])))
