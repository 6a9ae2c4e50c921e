"""The options of a job: one frozen record, from defaults, a TOML file and the command line."""

from __future__ import annotations

import difflib
import hashlib
import json
import tomllib
from dataclasses import dataclass, field, fields
from fractions import Fraction
from pathlib import Path
from typing import Any

from pipeline.bounded import OPTIONS_BYTES, read_bounded
from pipeline.errors import UsageError

SCOPES = ("frame", "person", "both")
EMBEDDED_DETECTOR = "person_nano"
"""The person detector that comes with the package."""
FRAME_INPUTS = ("frame", "frame_change", "frame_flow")
PERSON_INPUTS = ("crop", "crop_change", "crop_flow", "box")
LAYOUTS = ("auto", "fused", "split")
PRECISIONS = ("auto", "f32", "bf16", "f16")
DEVICES = ("auto", "cpu", "cuda")
SAMPLINGS = ("exact", "fast")

_DEFAULT_INPUTS = {
    "frame": ("frame",),
    "person": ("frame", "frame_change", "crop", "crop_change", "crop_flow", "box"),
    "both": ("frame", "frame_change", "crop", "crop_change", "crop_flow", "box"),
}

# Options that shape the features themselves. A lake remembers them and refuses features made otherwise.
_SHAPES_FEATURES = {"shapes_features": True}


@dataclass(frozen=True)
class VideoLimits:
    """What a video may claim to be, since what a small file claims can be more than a machine holds."""

    max_megapixels: float = 40.0
    """Size of a frame; 8K has 35."""
    max_video_hours: float = 200.0
    """Length."""
    min_frame_bytes: float = 1.0
    """Bytes of the file for each frame that it claims to hold."""


USUAL_LIMITS = VideoLimits()
"""What is allowed where nothing else is said."""


@dataclass(frozen=True)
class Config:
    """What to extract, how finely to cut the work, and with what resources. Checked on construction."""

    scope: str = field(default="person", metadata=_SHAPES_FEATURES)
    """`frame` labels whole frames, `person` each tracked person, `both` does both."""
    sample_fps: float = field(default=15.0, metadata=_SHAPES_FEATURES)
    """Points of the sampling grid per second of video."""
    sampling: str = field(default="exact", metadata=_SHAPES_FEATURES)
    """`exact`: each point takes the frame shown then. `fast`: the decoder leaves out frames that no other needs, so a
    point may take the one before; with the time of that."""
    track: int | None = field(default=None, metadata=_SHAPES_FEATURES)
    """Which of a file's video tracks to analyze, counted from 0. None: the largest that is no picture."""
    embedder: str = field(default="efficientnet_lite0", metadata=_SHAPES_FEATURES)
    """The CNN: `efficientnet_lite0` (embedded) or the name of a torchvision classifier, such as `resnet50`."""
    inputs: tuple[str, ...] = field(default=(), metadata=_SHAPES_FEATURES)
    """What the LSTM is given: the CNN's embedding of the whole frame, `frame`, and of how the next one differs from it,
    `frame_change`; what moves where in it, `frame_flow`; `crop`, `crop_change` and `crop_flow`, the same of a person's
    part. `box` is how a person's box moves. Empty: what the models read; without a model, those found to help."""
    detector: str = field(default=EMBEDDED_DETECTOR, metadata=_SHAPES_FEATURES)
    """Who finds people: `person_nano` (embedded), path or name of Ultralytics detection weights, a detector bundle."""
    classes: tuple[str, ...] = field(default=("person",), metadata=_SHAPES_FEATURES)
    """Names of the detector's classes to follow."""
    detector_px: int | None = field(default=None, metadata=_SHAPES_FEATURES)
    """Longest side of the detector's input in pixels, a multiple of 32. None: what it was trained for."""
    detector_score: float = field(default=0.1, metadata=_SHAPES_FEATURES)
    """Boxes below this score are not kept. Tracking uses the weak ones to bridge gaps."""
    max_people: int = field(default=32, metadata=_SHAPES_FEATURES)
    """At most so many boxes per frame, the best by score."""
    skip_unchanged: float = field(default=0.0, metadata=_SHAPES_FEATURES)
    """A frame of which no part differs by more than this from the last that the detector saw, in grey levels of 255,
    gets the boxes of that. 0: the detector sees all. Then boxes may depend a little on where chunks begin."""
    frame_px: int | None = field(default=None, metadata=_SHAPES_FEATURES)
    """Longest side of decoded frames in pixels; nothing is enlarged. None: 320 in scope `frame`, else 640."""
    pickled_weights: str = "warn"
    """What to do about weights that run code of whoever made them when they are loaded, as `.pt` files do: `warn` or
    `refuse`."""
    name_time: str | None = None
    """How a file's path tells when it was recorded: `%Y %m %d %H %M %S %f %z`, or `%s` for epoch seconds, `*` for
    anything between. None: by the usual spellings."""
    time_zone: str = "UTC"
    """IANA name of the zone of times that do not tell theirs."""
    camera: str | None = None
    """How a file's path tells its camera: `*` for anything, `{camera}` for its name. None: by the folder's name."""
    precision: str = "auto"
    """Arithmetic of the networks: `f32`, `bf16`, `f16`, or the fastest that the processor computes natively."""
    device: str = "auto"
    """`cpu`, `cuda`, or what the node has."""
    labels: tuple[str, ...] = ()
    """Activities to write segments of; empty: all that the model knows."""
    track_score: float = 0.25
    """A person is followed from the first box with this score on; weaker ones only carry a track on."""
    track_gap_s: float = 2.0
    """A person may be out of sight for so long and keep the id."""
    min_track_s: float = 0.5
    """A track shorter than this gives no segment."""
    chunk_s: float = 30.0
    """A chunk is about so long, and shorter where there is little to do; its ends lie on keyframes, unless there are so
    few chunks that they are halved."""
    shard_videos: int = 256
    """A shard holds at most so many videos ..."""
    shard_hours: float = 4.0
    """... or is closed when it holds so many hours of video."""
    layout: str = "auto"
    """`fused`: one actor decodes and extracts, with a share of its node's GPU if it has any. `split`: CPU decoders feed
    GPU actors. `auto`: `split` where some nodes have GPUs and some do not."""
    workers: int | None = None
    """Actors that decode. None: one per CPU that is there when the job starts. Those beyond the CPUs that are there
    start as nodes are added."""
    gpus_per_actor: float | None = None
    """GPUs, or a fraction of one, that an actor holds whose networks run on them. None: in the fused layout what lets
    all CPUs of a node work, in the split one a quarter."""
    classifiers: int | None = None
    """Actors that label finished shards. None: one for every 32 that decode."""
    max_attempts: int = 3
    """A chunk that killed its worker so often is given up, with a row in `failures`."""
    deadline_base_s: float = 120.0
    """A worker may decode without a result for this long ..."""
    deadline_per_s: float = 20.0
    """... plus this for each second of video in the chunk; then it is ended, and the attempt counted."""
    worker_memory_gb: float = 4.0
    """A worker whose own memory grows beyond this while it decodes is ended, and the attempt counted; GiB."""
    max_megapixels: float = VideoLimits.max_megapixels
    """A video with larger frames is refused; 8K has 35."""
    max_video_hours: float = VideoLimits.max_video_hours
    """A video that claims to be longer is refused."""
    min_frame_bytes: float = VideoLimits.min_frame_bytes
    """A video whose file has fewer bytes for each frame that it claims to hold is refused."""
    grace_s: float = 20.0
    """When the job is told to stop, chunks under way have so long to be finished."""
    keep_features: bool = True
    """Whether the lake keeps the embeddings, to train on."""
    run_id: str | None = None
    """Name of this run in the tables. None: made from the time."""

    def __post_init__(self) -> None:
        _one_of("scope", self.scope, SCOPES)
        _one_of("layout", self.layout, LAYOUTS)
        _one_of("precision", self.precision, PRECISIONS)
        _one_of("pickled_weights", self.pickled_weights, ("warn", "refuse"))
        _one_of("device", self.device, DEVICES)
        _one_of("sampling", self.sampling, SAMPLINGS)
        _within("sample_fps", self.sample_fps, 0.01, 1000)
        _within("detector_score", self.detector_score, 0.0, 1.0)
        if self.track is not None:
            _within("track", self.track, 0, 1000)
        _within("max_people", self.max_people, 1, 1000)
        _within("skip_unchanged", self.skip_unchanged, 0.0, 255.0)
        _within("track_score", self.track_score, 0.0, 1.0)
        _within("track_gap_s", self.track_gap_s, 0.0, 3600)
        if self.frame_px is not None:
            _within("frame_px", self.frame_px, 16, 8192)
        _within("chunk_s", self.chunk_s, 0.1, 86_400)
        _within("shard_videos", self.shard_videos, 1, 100_000)
        _within("shard_hours", self.shard_hours, 0.01, 10_000)
        if self.gpus_per_actor is not None:
            _within("gpus_per_actor", self.gpus_per_actor, 0.0001, 64)
            if self.gpus_per_actor > 1 and self.gpus_per_actor % 1:
                raise UsageError(f"gpus_per_actor = {self.gpus_per_actor:g}: above 1 it must be whole")
        if self.classifiers is not None:
            _within("classifiers", self.classifiers, 1, 1000)
        _within("max_attempts", self.max_attempts, 1, 100)
        _within("deadline_base_s", self.deadline_base_s, 0.001, 1e6)
        _within("deadline_per_s", self.deadline_per_s, 0.0, 1e6)
        _within("worker_memory_gb", self.worker_memory_gb, 0.01, 1e4)
        _within("max_megapixels", self.max_megapixels, 0.001, 1e6)
        _within("max_video_hours", self.max_video_hours, 0.001, 1e6)
        _within("min_frame_bytes", self.min_frame_bytes, 0.0, 1e6)
        _within("grace_s", self.grace_s, 0.0, 86_400)
        if self.workers is not None:
            _within("workers", self.workers, 1, 100_000)
        if self.detector_px is not None:
            _within("detector_px", self.detector_px, 64, 4096)
            if self.detector_px % 32:
                raise UsageError(
                    f"detector_px = {self.detector_px} is not a multiple of 32; try {self.detector_px // 32 * 32}"
                )
        if not self.classes:
            raise UsageError("classes is empty; name at least one, person for one")
        allowed = (*FRAME_INPUTS, *PERSON_INPUTS) if self.sees_people else FRAME_INPUTS
        for name in self.inputs:
            if name not in allowed:
                raise UsageError(f"inputs: {name!r} is not one of {', '.join(allowed)} in scope {self.scope!r}")

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
        """Which inputs the features hold, by the scope where none are named; in a fixed order."""
        named = self.inputs or _DEFAULT_INPUTS[self.scope]
        return tuple(name for name in (*FRAME_INPUTS, *PERSON_INPUTS) if name in named)

    @property
    def looks_ahead(self) -> bool:
        """Whether anything is told by the next frame, which needs a look past the end of a chunk."""
        return any(name.endswith(("_change", "_flow")) for name in self.embedded)

    @property
    def grid_rate(self) -> Fraction:
        """The sampling rate as an exact fraction, so that a grid point's time has no rounding error."""
        return Fraction(self.sample_fps).limit_denominator(100_000)

    @property
    def decoded_px(self) -> int:
        """Longest side of a decoded frame in pixels."""
        return self.frame_px or (640 if self.sees_people else 320)

    @property
    def limits(self) -> VideoLimits:
        """What a video may claim to be."""
        return VideoLimits(self.max_megapixels, self.max_video_hours, self.min_frame_bytes)

    def deadline_s(self, duration_s: float) -> float:
        """Seconds without a result that are given to a chunk of so many seconds of video."""
        return self.deadline_base_s + self.deadline_per_s * duration_s

    def feature_options(self) -> dict[str, Any]:
        """The options that shape the features, as plain JSON values."""
        chosen = {f.name: getattr(self, f.name) for f in fields(self) if f.metadata.get("shapes_features")}
        chosen["frame_px"] = self.decoded_px
        chosen["inputs"] = list(self.embedded)
        chosen["classes"] = list(self.classes)
        if self.track is None:
            # Lakes and models made before there was a choice are the same.
            del chosen["track"]
        if not self.sees_people:
            for name in ("detector", "classes", "detector_px", "detector_score", "max_people", "skip_unchanged"):
                del chosen[name]
        return chosen

    @classmethod
    def load(cls, path: str | Path | None = None, defaults: dict[str, Any] | None = None, **overrides: Any) -> Config:
        """Read a TOML file, if one is named, and lay the overrides that are not None over it.

        Args:
            path: The TOML file.
            defaults: Values for what neither the file nor the overrides name.
            overrides: Options by name, for one from the command line.

        Raises:
            UsageError: The file can't be read, an option is unknown, or a value is of the wrong type or out of range.
        """
        values: dict[str, Any] = {}
        if path is not None:
            try:
                values = tomllib.loads(read_bounded(path, OPTIONS_BYTES).decode())
            except OSError as error:
                raise UsageError(f"{path}: can't be read ({error.strerror})") from error
            except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
                raise UsageError(f"{path}: not valid TOML ({error})") from error
        values = (defaults or {}) | values | {name: value for name, value in overrides.items() if value is not None}
        known = {f.name: str(f.type) for f in fields(cls)}
        for name, value in values.items():
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(known)}"
                raise UsageError(f"{path or 'configuration'}: unknown option {name!r}{hint}")
            values[name] = _typed(name, value, known[name])
        return cls(**values)


def digest(options: dict[str, Any]) -> str:
    """Return the first 16 hex digits of SHA-256 over canonical JSON."""
    return hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()[:16]


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UsageError(f"{name} = {value!r} is not one of {', '.join(allowed)}")


def _within(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise UsageError(f"{name} = {value} is not between {low:g} and {high:g}")


def _typed(name: str, value: Any, annotation: str) -> Any:
    """Check a value from outside against the annotation of its option; a list becomes a tuple, an int a float."""
    wanted = annotation.split(" |", maxsplit=1)[0]
    if wanted == "float" and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if wanted == "tuple[str, ...]" and isinstance(value, (list, tuple)) and all(isinstance(v, str) for v in value):
        return tuple(value)
    python_type = {"str": str, "int": int, "float": float, "bool": bool}.get(wanted)
    if python_type is None or not isinstance(value, python_type) or (python_type is int and isinstance(value, bool)):
        raise UsageError(f"{name} = {value!r} should be of type {wanted}")
    return value
