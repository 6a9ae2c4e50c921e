"""A model bundle: a folder with weights, `model.json` and a model card."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from pipeline.activity.segments import SegmentOptions
from pipeline.activity.shapes import check_weights
from pipeline.activity.spec import ModelSpec
from pipeline.bounded import OPTIONS_BYTES, read_bounded
from pipeline.config import digest
from pipeline.errors import UsageError

if TYPE_CHECKING:
    from pipeline.activity.classifier import SequenceClassifier
    from pipeline.activity.model import ActivityModel

EMBEDDED_BUNDLES = ("jhmdb21-frame", "everyday12-pose", "everyday12-pose-causal", "daily22-look", "daily22-person")
"""Names of the bundles that come with the package. The causal one does not look ahead; it is meant for packing."""
BACKGROUND = "background"
"""Label of doing nothing in particular: it is learnt like any other, but gives no segment."""
_FORMAT = 3
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")


@dataclass(frozen=True)
class Bundle:
    """A trained activity model with everything that is needed to use it correctly."""

    name: str
    """Names the partition `model=<name>` of its segments."""
    labels: tuple[str, ...]
    """Activities, in the order of the model's outputs."""
    scope: str
    """What its sequences are made of: `frame` or `person`."""
    embedder: str
    """The CNN whose embeddings it reads."""
    sample_fps: float
    """Steps per second at which it was trained."""
    spec: ModelSpec
    """The description of the network and its inputs."""
    weights: Mapping[str, NDArray[np.floating]] = field(repr=False)
    """Its parameters, by name."""
    background: str | None = None
    """The label, if any, that gives no segment."""
    classes: tuple[str, ...] = ("person",)
    """Classes of the detector on whose tracks it was trained; not used in scope `frame`."""
    segments: SegmentOptions = field(default_factory=SegmentOptions)
    """How its scores become segments."""
    training: dict[str, Any] = field(default_factory=dict)
    """What it was trained on and how."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """Results of measuring it."""
    sha256: str = ""
    """Digest of the weights, filled in when a bundle is read or written."""

    @property
    def detector(self) -> str | None:
        """The detector on whose boxes it was trained; None if it was not recorded, or in scope `frame`."""
        name: str | None = self.training.get("features", {}).get("detector")
        return name

    @property
    def detector_px(self) -> int | None:
        """Longest side of that detector's input, in pixels; None if it was not recorded."""
        px: int | None = self.training.get("features", {}).get("detector_px")
        return px

    def limited(self, most_novel: float | None) -> Bundle:
        """Return the same model with another limit of novelty, also for single events; None: with its own limits.

        Raises:
            UsageError: It is no limit, or the model does not know novelty.
        """
        if most_novel is None:
            return self
        if not 0 <= most_novel <= 1:
            raise UsageError(f"most_novel = {most_novel}: novelties lie between 0 and 1")
        if not self.spec.energies:
            raise UsageError(f"model {self.name!r} does not know how novel a segment is; leave most_novel out")
        limit = float(most_novel)
        return replace(self, segments=replace(self.segments, most_novel=limit, most_novel_event=limit))

    @property
    def options_digest(self) -> str:
        """Digest of everything except the weights that determines the segments."""
        names = {"labels": self.labels, "background": self.background, "classes": self.classes}
        segments = asdict(self.segments)
        # What lakes were labelled with before there were limits of novelty keeps its digest.
        for limit in ("most_novel", "most_novel_event"):
            if segments[limit] == 1.0:
                del segments[limit]
        return digest({"model": asdict(self.spec), "segments": segments, **names})

    @cached_property
    def model(self) -> ActivityModel:
        """The network, in evaluation mode.

        It is built at its first use, because importing PyTorch takes longer than most uses of a bundle.
        """
        import torch

        from pipeline.activity.model import ActivityModel

        network = ActivityModel(self.spec)
        network.load_state_dict({name: torch.from_numpy(values).float() for name, values in self.weights.items()})
        return network.eval()

    def classifier(self) -> SequenceClassifier:
        """Return the model for inference. Only a transformer needs PyTorch.

        Raises:
            ValueError: Its parameters are not those of such a model.
        """
        from pipeline.activity.classifier import SequenceClassifier

        check_weights(self.spec, self.weights)
        return SequenceClassifier(self.spec, self.weights)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the network, which can be rebuilt from the rest."""
        return {name: value for name, value in vars(self).items() if name != "model"}

    def save(self, folder: str | Path, card: str = "") -> None:
        """Write the bundle into a folder; weights are rounded to float16, which halves its size.

        Args:
            folder: The target; created if missing.
            card: Text of the model card, `README.md`.
        """
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        weights = {name: np.ascontiguousarray(values, np.float16) for name, values in self.weights.items()}
        (target / "model.safetensors").write_bytes(save(weights))
        record = {
            "format": _FORMAT,
            "name": self.name,
            "labels": list(self.labels),
            "scope": self.scope,
            "embedder": self.embedder,
            "sample_fps": self.sample_fps,
            "model": asdict(self.spec),
            "background": self.background,
            "classes": list(self.classes),
            "segments": asdict(self.segments),
            "training": self.training,
            "metrics": self.metrics,
        }
        (target / "model.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        (target / "README.md").write_text(card or f"# {self.name}\n", encoding="utf-8")


def check_name(name: str) -> None:
    """Raise if a model can't have this name, which becomes the name of a folder in lakes.

    Raises:
        UsageError: The name is not allowed.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"a model can't be called {name!r}: use 1 to 100 letters, digits and . _ + -, a letter or digit first"
        )


def load_bundle(folder: str | Path) -> Bundle:
    """Read a bundle from a folder, or by name one of those that come with the package.

    Raises:
        UsageError: The folder is not a bundle, or its files do not fit together.
    """
    source = Path(folder).expanduser()
    is_ours = str(folder) in EMBEDDED_BUNDLES and not source.exists()
    if is_ours:
        source = Path(str(files("pipeline.activity") / "bundles" / str(folder)))
    way_out = "name a folder that `actionlake train` wrote"
    try:
        record = json.loads(read_bounded(source / "model.json", OPTIONS_BYTES))
        weights_file = source / "model.safetensors"
        weights = load_file(weights_file)
        sha256 = hashlib.sha256(weights_file.read_bytes()).hexdigest()
    except FileNotFoundError as error:
        raise UsageError(
            f"{source}: not a model bundle, {Path(error.filename or 'model.safetensors').name} is missing; {way_out}"
        ) from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError, SafetensorError) as error:
        raise UsageError(f"{source}: unreadable model bundle ({error}); {way_out}") from error
    try:
        if record["format"] != _FORMAT:
            raise UsageError(f"{source}: bundle format {record['format']}, but this version reads format {_FORMAT}")
        check_name(record["name"])
        spec = ModelSpec(**_with_tuples(record["model"]))
        labels = tuple(record["labels"])
        if len(labels) != spec.n_labels:
            raise UsageError(f"{source}: {len(labels)} labels for a model with {spec.n_labels} outputs")
        bundle = Bundle(
            name=record["name"],
            labels=labels,
            scope=record["scope"],
            embedder=record["embedder"],
            sample_fps=float(record["sample_fps"]),
            spec=spec,
            weights=weights,
            background=record["background"],
            classes=tuple(record["classes"]),
            segments=SegmentOptions(**_with_tuples(record["segments"])),
            training=record["training"],
            metrics=record["metrics"],
            sha256=sha256,
        )
        _check_numbers(spec, bundle.segments)
        check_weights(spec, weights)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UsageError(f"{source}: model.json and the weights do not fit together ({error}); {way_out}") from error
    return bundle


def _with_tuples(record: dict[str, Any]) -> dict[str, Any]:
    """Return options read from JSON, with its lists as tuples."""
    if not isinstance(record, dict):
        raise TypeError(f"options are no JSON object: {record!r}")
    return {name: tuple(value) if isinstance(value, list) else value for name, value in record.items()}


def _check_numbers(spec: ModelSpec, segments: SegmentOptions) -> None:
    """Raise ValueError if numbers have impossible values, so that no lake is labelled by them."""
    if not spec.temperature > 0:
        raise ValueError(f"temperature is {spec.temperature!r}")
    if len(spec.energies) == 1 or any(not isinstance(each, float) for each in spec.energies):
        raise ValueError("energies are not numbers, or there is only one")
    if any(each not in range(spec.n_labels) for each in segments.events):
        raise ValueError(f"events are {segments.events!r}")
    for limit in (segments.most_novel, segments.most_novel_event):
        if not (isinstance(limit, (int, float)) and 0 <= limit <= 1):
            raise ValueError(f"a limit of novelty is {limit!r}")
