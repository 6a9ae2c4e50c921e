"""The options of a job: one frozen record, from defaults, a TOML file and the command line."""

from __future__ import annotations

import functools
import hashlib
import json
from dataclasses import dataclass, field, fields
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from pipeline.errors import UsageError
from pipeline.options import read_options, unknown_option

SCOPES = ("frame", "person", "both")
OF_DETECTOR = "detector"
"""The name of the embedder that is the detector itself."""
EMBEDDED_EMBEDDER = "efficientnet_lite0"
"""The CNN that comes with the package: it works offline."""
EMBEDDED_DETECTOR = "person_pose"
"""The detector that comes with the package: it finds people and describes what it sees."""
# It stands here and not in the detector's bundle, so that a lake records it: in a bundle it could change unnoticed.
_EMBEDDED_DETECTOR_PX = 480
USUAL_FPS = 7.5
"""Frames per second to look at if the detector describes people. Each look costs: fewer frames with more pixels cost
less and show more."""
_CNN_FPS = 15.0
FRAME_INPUTS = ("frame", "frame_change", "frame_flow")
PERSON_INPUTS = ("crop", "crop_change", "crop_flow", "box", "pose")
"""`pose` needs a detector with keypoints."""

_DEFAULT_INPUTS = {
    "frame": ("frame",),
    "person": ("frame", "frame_change", "crop", "crop_change", "crop_flow", "box"),
    "both": ("frame", "frame_change", "crop", "crop_change", "crop_flow", "box"),
}

# A classifier that sees the whole frame learns the place, and other videos show other places.
_ONE_LOOK_INPUTS = ("crop", "crop_flow", "box")

Share = Annotated[float, Meta(ge=0, le=1)]


def _option(group: str, default: Any, shapes_features: bool = False) -> Any:
    """Return a field of `Config`.

    Args:
        group: The table of a TOML file in which the option stands.
        default: Its value if no other is given.
        shapes_features: Whether it shapes the features themselves. A lake remembers such options and refuses features
            that were made with others.
    """
    return field(default=default, metadata={"group": group, "shapes_features": shapes_features})


@dataclass(frozen=True)
class VideoLimits:
    """Limits on what a video may claim to be: a small file can claim more than a machine can hold."""

    max_megapixels: float = 40.0
    """Size of a frame; 8K has 35."""
    max_video_hours: float = 200.0
    """Length."""
    min_frame_bytes: float = 1.0
    """Bytes of the file for each frame that it claims to hold."""


USUAL_LIMITS = VideoLimits()
"""The limits if no others are given."""


@dataclass(frozen=True)
class Config:
    """What to extract, how finely to cut the work, and with what resources. Checked on construction."""

    scope: Literal["frame", "person", "both"] = _option("features", "person", shapes_features=True)
    """`frame` labels whole frames, `person` each tracked person, `both` does both."""
    sample_fps: Annotated[float, Meta(ge=0.01, le=1000)] | None = _option("features", None, shapes_features=True)
    """Points of the sampling grid per second of video. None: as the models were trained; without a model, 7.5 where
    the detector describes people, else 15."""
    sampling: Literal["exact", "fast"] = _option("features", "exact", shapes_features=True)
    """`exact`: each point takes the frame shown at its time. `fast`: the decoder skips frames that no other frame
    refers to, so a point may take the frame before, with that frame's time."""
    track: Annotated[int, Meta(ge=0, le=1000)] | None = _option("features", None, shapes_features=True)
    """Which of a file's video tracks to analyze, counted from 0. None: the largest that is not a still picture."""
    embedder: str | None = _option("features", None, shapes_features=True)
    """What describes frames and people. `detector`: the detector does so in its own pass, at no extra cost. Else a
    network: `efficientnet_lite0` (embedded), the name of a torchvision classifier, such as `resnet50`, `timm:MODEL`,
    `open_clip:MODEL/WEIGHTS`, or the path of a folder, with a slash, that timm or open_clip reads. None: the one that
    the models were trained with; without a model, `detector` in scope `person` if `person_pose` finds people, else
    `efficientnet_lite0`."""
    inputs: tuple[str, ...] = _option("features", (), shapes_features=True)
    """Inputs of the LSTM. `frame` is the embedding of the whole frame, `frame_change` that of how the next frame
    differs, and `frame_flow` what moves where in the frame. `crop`, `crop_change` and `crop_flow` are the same for a
    person's part of the frame. `box` is how a person's box moves, and `pose` how the body moves, for detectors with
    keypoints. Empty: those that the models read; without a model, those found to help."""
    frame_px: Annotated[int, Meta(ge=16, le=8192)] | None = _option("features", None, shapes_features=True)
    """Longest side of decoded frames in pixels; nothing is enlarged. None: that of the detector's input if the
    detector also describes people and nothing else looks at the frames; else 320 in scope `frame`, 640 in others."""
    keep_features: bool = _option("features", True)
    """Whether the lake keeps the features, for training."""
    detector: str | None = _option("people", None, shapes_features=True)
    """What finds people: `person_pose` or `person_nano` (embedded), path or name of Ultralytics detection weights, or a
    detector bundle. None: the one that the models were trained with; without a model, `person_pose`."""
    classes: Annotated[tuple[str, ...], Meta(min_length=1)] = _option("people", ("person",), shapes_features=True)
    """Names of the detector's classes to follow."""
    detector_px: Annotated[int, Meta(ge=64, le=4096, multiple_of=32)] | None = _option(
        "people", None, shapes_features=True
    )
    """Longest side of the detector's input in pixels, a multiple of 32. None: 480 for `person_pose`, else the size that
    the detector was trained for."""
    detector_score: Share = _option("people", 0.1, shapes_features=True)
    """Boxes below this score are not kept. Tracking uses the weak ones to bridge gaps."""
    max_people: Annotated[int, Meta(ge=1, le=1000)] = _option("people", 32, shapes_features=True)
    """Most boxes per frame; those with the best scores are kept."""
    skip_unchanged: Annotated[float, Meta(ge=0, le=255)] = _option("people", 0.0, shapes_features=True)
    """If no part of a frame differs by more than this, in grey levels of 255, from the last frame that the detector
    saw, the frame gets that one's boxes. 0: the detector sees all frames. Above 0, boxes may depend a little on where
    chunks begin."""
    pickled_weights: Literal["warn", "refuse"] = _option("people", "warn")
    """What to do about weights that run their maker's code when they are loaded, such as `.pt` files: `warn` or
    `refuse`."""
    track_score: Share = _option("people", 0.25)
    """A track starts with a box of at least this score. Weaker boxes only continue a track."""
    track_gap_s: Annotated[float, Meta(ge=0, le=3600)] = _option("people", 2.0)
    """Seconds that a person may be out of sight and keep the id."""
    labels: tuple[str, ...] = _option("labels", ())
    """Activities to write segments of. Empty: all that the model knows."""
    min_track_s: Annotated[float, Meta(ge=0, le=86_400)] = _option("labels", 0.5)
    """A track shorter than this, in seconds, gives no segment."""
    most_novel: Share | None = _option("labels", None)
    """A segment with a higher novelty is dropped: it is unlike what the model has learnt from. 1: none is dropped.
    None: the model's own limits, which may be lower for single events."""
    name_time: str | None = _option("labels", None)
    """How a file's path tells when it was recorded: `%Y %m %d %H %M %S %f %z`, or `%s` for epoch seconds, and `*` for
    anything between. None: the usual spellings."""
    time_zone: str = _option("labels", "UTC")
    """IANA name of the time zone for times that name none."""
    camera: str | None = _option("labels", None)
    """How a file's path tells its camera: `*` for anything, `{camera}` for its name. None: the folder's name."""
    precision: Literal["auto", "f32", "bf16", "f16"] = _option("resources", "auto")
    """Arithmetic of the networks: `f32`, `bf16`, `f16`, or the fastest that the processor computes natively."""
    device: Literal["auto", "cpu", "cuda"] = _option("resources", "auto")
    """`cpu`, `cuda`, or what the node has."""
    layout: Literal["auto", "fused", "split"] = _option("resources", "auto")
    """`fused`: each actor decodes and extracts, with a share of its node's GPU if there is one. `split`: CPU decoders
    feed GPU actors. `auto`: `split` if some nodes have GPUs and some do not, else `fused`."""
    workers: Annotated[int, Meta(ge=1, le=100_000)] | None = _option("resources", None)
    """Number of actors that decode. None: one per CPU at the start of the job. If there are more actors than CPUs, the
    others start as nodes are added."""
    gpus_per_actor: Annotated[float, Meta(ge=0.0001, le=64)] | None = _option("resources", None)
    """GPUs, or a fraction of one, for each actor whose networks run on a GPU. None: in the fused layout the share that
    lets all CPUs of a node work, in the split layout a quarter."""
    classifiers: Annotated[int, Meta(ge=1, le=1000)] | None = _option("resources", None)
    """Number of actors that label finished shards. None: one for every 32 actors that decode."""
    chunk_s: Annotated[float, Meta(ge=0.1, le=86_400)] = _option("resources", 30.0)
    """Approximate seconds of video in a chunk; fewer if there is little to do. A chunk's ends lie on keyframes, unless
    there are so few chunks that they are halved."""
    shard_videos: Annotated[int, Meta(ge=1, le=100_000)] = _option("resources", 256)
    """Most videos in a shard."""
    shard_hours: Annotated[float, Meta(ge=0.01, le=10_000)] = _option("resources", 4.0)
    """A shard is closed when it holds this many hours of video."""
    run_id: str | None = _option("resources", None)
    """Name of this run in the tables. None: made from the time."""
    max_attempts: Annotated[int, Meta(ge=1, le=100)] = _option("limits", 3)
    """A chunk is given up, with a row in `failures`, after it has ended this many workers."""
    deadline_base_s: Annotated[float, Meta(ge=0.001, le=1e6)] = _option("limits", 120.0)
    """Seconds that a worker may decode without a result; `deadline_per_s` adds to them."""
    deadline_per_s: Annotated[float, Meta(ge=0, le=1e6)] = _option("limits", 20.0)
    """Further such seconds for each second of video in the chunk. Then the worker is ended, and the attempt counts."""
    worker_memory_gb: Annotated[float, Meta(ge=0.01, le=1e4)] = _option("limits", 4.0)
    """If a worker's own memory grows beyond this many GiB while it decodes, it is ended, and the attempt counts."""
    max_megapixels: Annotated[float, Meta(ge=0.001, le=1e6)] = _option("limits", VideoLimits.max_megapixels)
    """A video with larger frames is refused; 8K has 35."""
    max_video_hours: Annotated[float, Meta(ge=0.001, le=1e6)] = _option("limits", VideoLimits.max_video_hours)
    """A video that claims to be longer is refused."""
    min_frame_bytes: Annotated[float, Meta(ge=0, le=1e6)] = _option("limits", VideoLimits.min_frame_bytes)
    """A video whose file has fewer bytes for each frame that it claims to hold is refused."""
    grace_s: Annotated[float, Meta(ge=0, le=86_400)] = _option("limits", 20.0)
    """Seconds that chunks under way have to finish when the job is told to stop."""

    def __post_init__(self) -> None:
        for name, hint in _hints().items():
            _check(name, getattr(self, name), hint)
        if self.gpus_per_actor is not None and self.gpus_per_actor > 1 and self.gpus_per_actor % 1:
            raise UsageError(f"gpus_per_actor = {self.gpus_per_actor:g}: above 1 it must be whole")
        allowed = (*FRAME_INPUTS, *PERSON_INPUTS) if self.sees_people else FRAME_INPUTS
        for name in self.inputs:
            if name not in allowed:
                raise UsageError(f"inputs: {name!r} is not one of {', '.join(allowed)} in scope {self.scope!r}")
        if self.looks_once and not self.sees_people:
            raise UsageError(f"embedder = {OF_DETECTOR!r} needs a detector, which scope {self.scope!r} does not have")
        changes = [name for name in self.embedded if name.endswith("_change")]
        if self.looks_once and changes:
            raise UsageError(f"inputs: {changes[0]!r} is a look of its own, which embedder = {OF_DETECTOR!r} spares")

    @property
    def looks_once(self) -> bool:
        """Whether the detector's pass also tells what frames and people look like."""
        return self.chosen_embedder == OF_DETECTOR

    @property
    def chosen_embedder(self) -> str:
        """The name of what describes frames and people."""
        changes = any(name.endswith("_change") for name in self.inputs)
        describes = self.scope == "person" and self.chosen_detector == EMBEDDED_DETECTOR and not changes
        return self.embedder or (OF_DETECTOR if describes else EMBEDDED_EMBEDDER)

    @property
    def chosen_detector(self) -> str:
        """The name of the detector of people."""
        return self.detector or EMBEDDED_DETECTOR

    @property
    def chosen_detector_px(self) -> int | None:
        """Longest side of the detector's input in pixels; None: the size that it was trained for."""
        return self.detector_px or usual_detector_px(self.chosen_detector)

    @property
    def chosen_fps(self) -> float:
        """Points of the sampling grid per second of video."""
        return self.sample_fps or (USUAL_FPS if self.looks_once else _CNN_FPS)

    @property
    def sees_people(self) -> bool:
        """Whether people are detected and followed."""
        return self.scope in ("person", "both")

    @property
    def labels_frames(self) -> bool:
        """Whether whole frames are labelled."""
        return self.scope in ("frame", "both")

    @property
    def embedded(self) -> tuple[str, ...]:
        """The inputs that the features hold, in a fixed order; by the scope if none are named."""
        named = self.inputs or (_ONE_LOOK_INPUTS if self.looks_once else _DEFAULT_INPUTS[self.scope])
        return tuple(name for name in (*FRAME_INPUTS, *PERSON_INPUTS) if name in named)

    @property
    def grid_rate(self) -> Fraction:
        """The sampling rate as an exact fraction, so that a grid point's time has no rounding error."""
        return Fraction(self.chosen_fps).limit_denominator(100_000)

    def frame_rate(self, own_fps: float | None) -> float:
        """Return how many different frames per second are sampled from a video.

        The video's own rate is the limit: a finer grid repeats frames, which does not make motion faster.

        Args:
            own_fps: The video's own frames per second, if they are known.
        """
        return min(self.chosen_fps, own_fps or self.chosen_fps)

    @property
    def decoded_px(self) -> int:
        """Longest side of a decoded frame in pixels."""
        if self.frame_px:
            return self.frame_px
        detector_alone = self.looks_once and not any(name.endswith("_flow") for name in self.embedded)
        return (self.chosen_detector_px if detector_alone else None) or (640 if self.sees_people else 320)

    @property
    def limits(self) -> VideoLimits:
        """What a video may claim to be."""
        return VideoLimits(self.max_megapixels, self.max_video_hours, self.min_frame_bytes)

    def deadline_s(self, duration_s: float) -> float:
        """Return how many seconds without a result a chunk of this duration is given."""
        return self.deadline_base_s + self.deadline_per_s * duration_s

    def feature_options(self) -> dict[str, Any]:
        """Return the options that shape the features, as plain JSON values."""
        chosen = {f.name: getattr(self, f.name) for f in fields(self) if f.metadata["shapes_features"]}
        chosen |= {
            "sample_fps": self.chosen_fps,
            "embedder": self.chosen_embedder,
            "inputs": list(self.embedded),
            "frame_px": self.decoded_px,
            "detector": self.chosen_detector,
            "classes": list(self.classes),
            "detector_px": self.chosen_detector_px,
        }
        if self.track is None:
            # Lakes and models that were made before this option existed have the same options.
            del chosen["track"]
        if not self.sees_people:
            for name in ("detector", "classes", "detector_px", "detector_score", "max_people", "skip_unchanged"):
                del chosen[name]
        return chosen

    @classmethod
    def load(cls, path: str | Path | None = None, defaults: dict[str, Any] | None = None, **overrides: Any) -> Config:
        """Read a TOML file, if one is named, and apply the overrides that are not None.

        Args:
            path: The TOML file; see `read_options`.
            defaults: Values for what neither the file nor the overrides name.
            overrides: Options by name, such as those of the command line.

        Raises:
            UsageError: The file can't be read, an option is unknown, or a value is of the wrong type or out of range.
        """
        named = {name: value for name, value in overrides.items() if value is not None}
        values = (defaults or {}) | (read_options(path, groups_of_options()) if path is not None else {}) | named
        known = groups_of_options()
        for name in values:
            if name not in known:
                raise unknown_option("configuration", name, known)
        chosen: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
        }
        return cls(**chosen)


def usual_detector_px(detector: str) -> int | None:
    """Return the default longest side of a detector's input in pixels; None: the size that it was trained for."""
    return _EMBEDDED_DETECTOR_PX if detector == EMBEDDED_DETECTOR else None


@functools.cache
def _hints() -> dict[str, Any]:
    """Return the type of each option, with its limits."""
    return get_type_hints(Config, include_extras=True)


@functools.cache
def groups_of_options() -> dict[str, str]:
    """Return for each option its group: the table of a TOML file in which it stands."""
    return {option.name: option.metadata["group"] for option in fields(Config)}


def _check(name: str, value: Any, hint: Any) -> None:
    """Raise if a value is not allowed for an option."""
    try:
        msgspec.convert(value, hint)
    except msgspec.ValidationError as error:
        if get_origin(hint) is Literal:
            raise UsageError(f"{name} = {value!r} is not one of {', '.join(get_args(hint))}") from error
        told = str(error).replace("`", "").replace(" | null", "")
        raise UsageError(f"{name} = {value!r}: {told[0].lower()}{told[1:]}") from error


def digest(options: dict[str, Any]) -> str:
    """Return the first 16 hex digits of SHA-256 over canonical JSON."""
    return hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()[:16]
