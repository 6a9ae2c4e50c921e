"""Label what people do in a file, before a camera or in a stream: print a JSON line for each segment when it ends.

    python edge.py video.mp4
    python edge.py rtsp://camera/stream --precision int8
    python edge.py camera:0

This program lies beside the networks that it runs. It needs numpy, opencv-python, lap, and openvino or onnxruntime;
for streams, and for exact times, av.
"""

from __future__ import annotations

import argparse
import datetime
import json
import signal
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.activity.scores import scored
from pipeline.activity.segments import Scored, SegmentFinder, SegmentOptions, StepRun
from pipeline.edge.eyes import Eyes
from pipeline.edge.footage import Footage, Picture, pictures
from pipeline.edge.networks import RUNTIMES, load_networks
from pipeline.motion.kinematics import box_motion
from pipeline.motion.poses import pose_motion
from pipeline.motion.tracking import NO_TRACK, TrackOptions, track_video
from pipeline.vision.detector import Boxes

PACK_FORMAT = 2
"""The format of `pack.json` and of the networks beside it."""
# The motion of a box is computed from the views within these seconds after and before it.
_AHEAD_S, _BEHIND_S = 0.45, 3.0
# If a person has more places than this, the earlier ones are thinned out, so that memory stays bounded.
_MOST_PLACES = 2048


@dataclass(frozen=True)
class View:
    """A person in one picture."""

    step: int
    n_steps: int
    time_s: float
    xyxy: NDArray[np.float32]
    keypoints: NDArray[np.float32]


@dataclass
class Places:
    """The boxes of a person over time, as cumulative sums: they give the mean box of any span, in bounded memory."""

    steps: list[int] = field(default_factory=list)
    sums: list[NDArray[np.float64]] = field(default_factory=list)

    def add(self, step: int, n_steps: int, xyxy: NDArray[np.float32]) -> None:
        """Take a box that stands for some steps."""
        before = self.sums[-1] if self.sums else np.zeros(4)
        if not self.steps:
            self.steps, self.sums = [step], [before]
        self.steps.append(step + n_steps)
        self.sums.append(before + n_steps * xyxy)
        if len(self.steps) > _MOST_PLACES:
            half = len(self.steps) // 2
            del self.steps[1:half:2], self.sums[1:half:2]

    def mean(self, first_step: int, end_step: int) -> list[float]:
        """Return the mean box over some steps."""
        ends = [np.interp((first_step, end_step), self.steps, column) for column in np.array(self.sums).T]
        return [float(end - start) / (end_step - first_step) for start, end in ends]


class Person:
    """A person who is followed: the latest views, the state of the LSTM, and the segment that goes on."""

    def __init__(self, track_id: int, labeller: Labeller) -> None:
        self.track_id, self._labeller = track_id, labeller
        self.views: deque[View] = deque()
        self.n_steps = 0
        self._n_used = 0
        self._state = labeller.first_state()
        self._finder: SegmentFinder | None = None
        self._places = Places()
        self._early: list[StepRun] = []

    def see(self, view: View) -> Iterator[dict[str, Any]]:
        """Take a view, and yield the segments that are certain now."""
        self.views.append(view)
        while len(self.views) > self._n_used + 1 and view.time_s - self.views[self._n_used].time_s >= _AHEAD_S:
            yield from self._use()

    def leave(self) -> Iterator[dict[str, Any]]:
        """End the track, and yield the segments that are left."""
        while self._n_used < len(self.views):
            yield from self._use()
        if self._finder is not None:
            yield from self._told(self._finder.close())

    def _use(self) -> Iterator[dict[str, Any]]:
        """Label the next view. It stands for the person until the view after it."""
        view = self.views[self._n_used]
        is_last = self._n_used + 1 == len(self.views)
        n_steps = view.n_steps if is_last else self.views[self._n_used + 1].step - view.step
        block, self._state = self._labeller.scored(list(self.views), self._n_used, n_steps, self._state)
        self._n_used += 1
        while self.views[0].time_s < view.time_s - _BEHIND_S:
            self.views.popleft()
            self._n_used -= 1
        if self._finder is None:
            self._finder = self._labeller.finder(view.step)
        self._places.add(view.step, n_steps, view.xyxy)
        self.n_steps += n_steps
        yield from self._told(self._finder.push(block))

    def _told(self, runs: list[StepRun]) -> Iterator[dict[str, Any]]:
        self._early += runs
        if self.n_steps < self._labeller.least_steps:
            return
        for run in self._early:
            if (said := self._labeller.said(run)) is not None:
                yield said | {"track_id": self.track_id, "box": self._places.mean(run.first_step, run.end_step)}
        self._early = []


class Labeller:
    """The LSTM of a pack, a step at a time."""

    def __init__(self, pack: dict[str, Any], networks: Any) -> None:
        self._pack, self._step = pack, networks.step
        options = dict(pack["segments"])
        self._options = SegmentOptions(**(options | {"events": tuple(options["events"])}))
        self._fps = float(pack["sample_fps"])
        self.least_steps = pack["min_track_s"] * self._fps

    def first_state(self) -> NDArray[np.float32]:
        """Return the state at the start of a sequence: zeros."""
        return np.zeros(self._pack["state_shape"], np.float32)

    def finder(self, first_step: int) -> SegmentFinder:
        """Return an object that makes segments from the scores of a sequence."""
        return SegmentFinder(first_step, self._fps, self._options, look_every=4)

    def scored(
        self, views: list[View], index: int, n_steps: int, state: NDArray[np.float32]
    ) -> tuple[Scored, NDArray[np.float32]]:
        """Return the result for a view, for each of its steps, and the state after it.

        Args:
            views: The views of the person that are near in time.
            index: Index of the view in `views`.
            n_steps: For how many steps it stands.
            state: The state after the steps before.
        """
        time_s = np.array([view.time_s for view in views])
        xyxy = np.stack([view.xyxy for view in views])
        inputs = {"box": lambda: box_motion(time_s, xyxy)}
        inputs["pose"] = lambda: pose_motion(time_s, xyxy, np.stack([view.keypoints for view in views]))
        # Rounded to half floats, as the features in a lake are.
        parts = [inputs[name]()[index].astype(np.float16).astype(np.float32) for name in self._pack["inputs"]]
        x, said = np.concatenate(parts)[None], []
        for _ in range(n_steps):
            logits, state = self._step(x, state)
            said.append(logits[0])
        return scored(np.stack(said), self._pack["temperature"], self._pack["energies"]), state

    def said(self, run: StepRun) -> dict[str, Any] | None:
        """Return a segment as it is printed; None for the background, and for what is too novel."""
        label = self._pack["labels"][run.label_id]
        if label == self._pack["background"] or not self._options.tells(run):
            return None
        start_s, end_s = run.first_step / self._fps, run.end_step / self._fps
        novelty = {"novelty": run.novelty} if self._pack["energies"] else {}
        return {"label": label, "score": run.score, **novelty, "start_s": start_s, "end_s": end_s}


def segments(source: Iterable[Picture], fps: float, pack: dict[str, Any], networks: Any) -> Iterator[dict[str, Any]]:
    """Yield the segments in successive pictures, each as soon as it is certain.

    Args:
        source: The sampled pictures.
        fps: How many of them usually come per second.
        pack: The content of `pack.json`.
        networks: The networks, from `load_networks`.

    Raises:
        OSError: The source broke off. All segments are yielded before.
    """
    eyes, labeller = Eyes(pack["detector"], networks), Labeller(pack, networks)
    options = TrackOptions(**pack["track"])
    seen: deque[tuple[Picture, Boxes]] = deque()
    people: dict[int, Person] = {}

    failures: list[OSError] = []

    def looks() -> Iterator[tuple[float, Boxes]]:
        try:
            for picture in source:
                boxes = eyes.look(picture.image, picture.size)
                seen.append((picture, boxes))
                yield picture.time_s, boxes
        except OSError as error:
            # The segments up to here are yielded first.
            failures.append(error)

    for track_ids in track_video(looks(), fps, options):
        picture, boxes = seen.popleft()
        for index, track_id in enumerate(track_ids.tolist()):
            if track_id != NO_TRACK and boxes.keypoints is not None:
                if track_id not in people:
                    people[track_id] = Person(track_id, labeller)
                at = picture.step, picture.n_steps, picture.time_s
                yield from people[track_id].see(View(*at, boxes.xyxy[index], boxes.keypoints[index]))
        for person in [each for each in people.values() if picture.time_s - each.views[-1].time_s > 2 * options.gap_s]:
            yield from people.pop(person.track_id).leave()
    for person in people.values():
        yield from person.leave()
    if failures:
        raise failures[0]


def main(arguments: list[str] | None = None) -> int:
    """Run the command; a user's mistake gets one line. SIGINT and SIGTERM end the source; open segments are printed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("source", help="a file, rtsp://..., or camera:0")
    parser.add_argument("--pack", type=Path, default=Path(__file__).resolve().parent, help="folder of the networks")
    parser.add_argument("--precision", default="", help="f32, f16 or int8; default: the smallest in the pack")
    parser.add_argument("--runtime", choices=RUNTIMES, help="default: OpenVINO, if it is installed")
    parser.add_argument("--threads", type=int, default=1, help="threads of the networks")
    asked = parser.parse_args(arguments)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        pack = json.loads((asked.pack / "pack.json").read_text(encoding="utf-8"))
        if pack["format"] != PACK_FORMAT:
            raise ValueError(f"{asked.pack}: packed by another version; use the edge.py that lies there")
        networks = load_networks(asked.pack, asked.runtime, asked.precision, asked.threads)
        footage = pictures(asked.source, float(pack["sample_fps"]), int(pack["frame_px"]), stop)
        for segment in segments(footage, footage.fps, pack, networks):
            print(json.dumps(segment | _on_the_clock(segment, footage)), flush=True)
    except BrokenPipeError:
        # The reader of the output is gone.
        sys.stdout = None
        return 0
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _on_the_clock(segment: dict[str, Any], footage: Footage) -> dict[str, str]:
    """Return when a segment of a live source began, in UTC."""
    if not footage.is_live:
        return {}
    at = datetime.datetime.fromtimestamp(footage.began_at + segment["start_s"], datetime.UTC)
    return {"start_at": at.isoformat(timespec="milliseconds")}


if __name__ == "__main__":
    sys.exit(main())
