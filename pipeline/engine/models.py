"""Which models a job labels with, and whether they fit its features."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.activity.bundle import EMBEDDED_BUNDLES, Bundle, load_bundle
from pipeline.activity.spec import input_dim
from pipeline.config import OF_DETECTOR, Config
from pipeline.errors import UsageError
from pipeline.lake.store import Lake
from pipeline.motion.forecaster_bundle import ForecasterBundle, load_forecaster
from pipeline.steps.foretell import Foreteller, ForetellOptions

log = logging.getLogger(__name__)

DEFAULT_MODEL = "default"
"""Stands for the bundles that come with the package, one for each scope."""
NO_MODEL = "none"
"""Stands for no model: only features."""
NAMES = (DEFAULT_MODEL, NO_MODEL)
"""Names that stand for models and are not folders."""
_DEFAULTS: dict[str, list[tuple[str, ...]]] = {
    "frame": [("jhmdb21-frame",)],
    # The first reads the poses of any detector, the second embeddings of its own detector, the third those of a CNN.
    "person": [("everyday12-pose",), ("daily22-look",), ("daily22-person",)],
    "both": [("jhmdb21-frame", "daily22-person")],
}
"""The bundles of the package for each scope, in order of preference."""


def choose_models(model: str | Path | Bundle | None, scope: str, config: Config | None = None) -> list[Bundle]:
    """Return the models of a job: the named one, or those that come with the package for its scope.

    Args:
        model: A bundle, the folder of one, or one of `NAMES`.
        scope: What the job labels.
        config: The other options. The first bundles of the package that fit them are taken.

    Raises:
        UsageError: A bundle can't be read, or labels in another scope, or does not know novelty and has to limit it.
    """
    bundles = _named(model, scope, config)
    return [bundle.limited(config.most_novel) for bundle in bundles] if config is not None else bundles


def _named(model: str | Path | Bundle | None, scope: str, config: Config | None) -> list[Bundle]:
    scopes = ("frame", "person") if scope == "both" else (scope,)
    if model is None or model == NO_MODEL:
        return []
    if model == DEFAULT_MODEL:
        bundles: list[Bundle] = []
        for names in _DEFAULTS[scope]:
            bundles = [load_bundle(name) for name in names]
            if config is None or _fits(bundles, config):
                break
        return bundles
    bundle = model if isinstance(model, Bundle) else load_bundle(model)
    if bundle.scope not in scopes:
        raise UsageError(f"model {bundle.name!r} labels in scope {bundle.scope!r}, but scope = {scope!r}; use the same")
    return [bundle]


def config_for(bundles: Sequence[Bundle]) -> dict[str, Any]:
    """Return the options of `Config` that models were trained with, except `detector_px`, which `fitted` sets."""
    inputs = tuple(dict.fromkeys(name for bundle in bundles for name in bundle.spec.inputs))
    fitting: dict[str, Any] = {"inputs": inputs} if inputs else {}
    for bundle in bundles:
        fitting |= {"sample_fps": bundle.sample_fps}
        if _reads_embeddings(bundle):
            fitting |= {"embedder": bundle.embedder}
        if bundle.scope == "person":
            fitting |= {"classes": bundle.classes, "detector": bundle.detector}
    return fitting


def fitted(config: Config, bundles: Sequence[Bundle]) -> Config:
    """Return the options, with unset ones filled in from what models read and were trained with."""
    fitting = config_for(bundles)
    detector = config.detector or fitting.get("detector")
    px = next((bundle.detector_px for bundle in bundles if bundle.detector == detector), None)
    return replace(
        config,
        sample_fps=config.sample_fps or fitting.get("sample_fps"),
        inputs=config.inputs or fitting.get("inputs", ()),
        embedder=config.embedder or fitting.get("embedder"),
        detector=detector,
        detector_px=config.detector_px or px,
    )


def check_lake(lake: Lake, config: Config) -> None:
    """Check that a lake's features were made with these options.

    Raises:
        UsageError: They were not. If they were made for another model of the package, the message names it. If only
            the size of the frames differs, as in lakes of earlier versions, it says how to set it.
    """
    try:
        lake.check(config.feature_options())
    except UsageError as error:
        there = lake.features_made_with() if lake.exists() else {}
        if replace(config, frame_px=there.get("frame_px")).feature_options() == there:
            raise UsageError(
                f"{error}. `frame_px = {there['frame_px']}` in the table [features] of a --config file goes on with it"
            ) from error
        detector, px = there.get("detector"), there.get("detector_px")
        unnamed = replace(config, inputs=(), embedder=None, detector=detector, detector_px=px, sample_fps=None)
        for bundle in map(load_bundle, EMBEDDED_BUNDLES):
            # If the inputs are the same, something else differs.
            if bundle.scope != config.scope or bundle.spec.inputs == config.inputs:
                continue
            if fitted(unnamed, [bundle]).feature_options() == there:
                named = f" --detector {detector}" if detector != bundle.detector else ""
                raise UsageError(f"{error}. `--model {bundle.name}{named}` goes on with it") from error
        raise


def check_fit(bundles: Sequence[Bundle], config: Config) -> None:
    """Raise if models can't label these features. Warn if they were trained on different ones."""
    misfit = _misfit(bundles, config)
    if misfit:
        raise UsageError(misfit)
    for bundle in _strange(bundles, config):
        log.warning(
            "model %r was trained on what detector %r sees; of what %r sees its scores are less reliable",
            bundle.name, bundle.detector, config.chosen_detector,
        )  # fmt: skip
    for bundle in bundles:
        if bundle.sample_fps != config.chosen_fps:
            log.warning(
                "model %r was trained at %g frames/s; at %g its scores are less reliable",
                bundle.name, bundle.sample_fps, config.chosen_fps,
            )  # fmt: skip
    known = [label for bundle in bundles for label in bundle.labels if label != bundle.background]
    unknown = [label for label in config.labels if label not in known]
    if unknown and bundles:
        names = " and ".join(repr(bundle.name) for bundle in bundles)
        raise UsageError(f"model {names} has no label {', '.join(map(repr, unknown))}; it knows {', '.join(known)}")


def choose_forecaster(forecaster: str | Path, config: Config) -> ForecasterBundle:
    """Return a forecaster that fits what these options track.

    Raises:
        UsageError: It can't be read, its unit is metres, or nobody is tracked.
    """
    if not config.sees_people:
        raise UsageError(
            f"--forecaster {forecaster}: in scope {config.scope!r} nobody is followed; name --scope person"
        )
    return Foreteller(load_forecaster(forecaster), ForetellOptions()).bundle


def check_vectors(bundles: Sequence[Bundle], dim: int) -> None:
    """Raise if models read embeddings of another length than `dim`, the length that the networks give."""
    for bundle in bundles:
        if bundle.spec.embedding_dim != dim and _reads_embeddings(bundle):
            raise UsageError(
                f"model {bundle.name!r} reads vectors of {bundle.spec.embedding_dim} numbers, but embedder and "
                f"detector give {dim}; use those that it was trained with, or train it again"
            )


def _reads_embeddings(bundle: Bundle) -> bool:
    return any(input_dim(name, 0) == 0 for name in bundle.spec.inputs)


def _fits(bundles: Sequence[Bundle], config: Config) -> bool:
    """Whether models can read the features of the options set so far."""
    for bundle in bundles:
        # A user who names an embedder wants it read.
        if config.embedder and not _reads_embeddings(bundle):
            return False
        if "pose" in bundle.spec.inputs and not _tells_poses(config.chosen_detector):
            return False
    # A user whose detector is also the embedder wants its embeddings read.
    strange = [] if config.looks_once else _strange(bundles, config)
    try:
        return not (strange or _misfit(bundles, fitted(config, bundles)))
    except UsageError:
        return False


def _tells_poses(detector: str) -> bool:
    """Whether a detector finds keypoints, judged by its name. Its weights are not read for this."""
    return "pose" in Path(detector).stem


def _strange(bundles: Sequence[Bundle], config: Config) -> list[Bundle]:
    """Return the models that would read embeddings of another detector than they were trained with."""
    # Only the name counts, not the path to the detector.
    named = Path(config.detector or "").name
    reading = [bundle for bundle in bundles if bundle.embedder == OF_DETECTOR and _reads_embeddings(bundle)]
    return [bundle for bundle in reading if config.detector and named != Path(bundle.detector or "").name]


def _misfit(bundles: Sequence[Bundle], config: Config) -> str:
    """Return why models can't read the features that these options make; empty if they can."""
    for bundle in bundles:
        if bundle.embedder != config.chosen_embedder and _reads_embeddings(bundle):
            return (
                f"model {bundle.name!r} reads embeddings of {bundle.embedder!r}, but embedder = "
                f"{config.chosen_embedder!r}; use the same, train a model for it, or name --model none: features alone"
            )
        missing = [name for name in bundle.spec.inputs if name not in config.embedded]
        if missing:
            return (
                f"model {bundle.name!r} reads {', '.join(bundle.spec.inputs)}, but inputs lack {', '.join(missing)}; "
                f"analyze into another lake with --model {bundle.name}, or train a model for what there is"
            )
    return ""
