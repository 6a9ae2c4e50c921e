"""Which models a job labels with, and whether they fit its features."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.activity.bundle import DEFAULT_BUNDLES, Bundle, load_bundle
from pipeline.config import Config
from pipeline.errors import UsageError

log = logging.getLogger(__name__)

DEFAULT_MODEL = "default"
"""Stands for the bundles that come with the package, one for each scope."""
NO_MODEL = "none"
"""Stands for none: features alone."""
NAMES = (DEFAULT_MODEL, NO_MODEL)
"""What stands for models and is not the folder of one."""


def choose_models(model: str | Path | Bundle | None, scope: str) -> list[Bundle]:
    """Return the models of a job: what is named, or those that come with the package for its scope.

    Raises:
        UsageError: A bundle can't be read, or labels what the scope does not see.
    """
    scopes = ("frame", "person") if scope == "both" else (scope,)
    if model is None or model == NO_MODEL:
        return []
    if model == DEFAULT_MODEL:
        return [load_bundle(DEFAULT_BUNDLES[name]) for name in scopes]
    bundle = model if isinstance(model, Bundle) else load_bundle(model)
    if bundle.scope not in scopes:
        raise UsageError(f"model {bundle.name!r} labels in scope {bundle.scope!r}, but scope = {scope!r}; use the same")
    return [bundle]


def config_for(bundles: Sequence[Bundle]) -> dict[str, Any]:
    """Return the options of `Config` that models were trained with."""
    inputs = tuple(dict.fromkeys(name for bundle in bundles for name in bundle.spec.inputs))
    fitting: dict[str, Any] = {"inputs": inputs} if inputs else {}
    for bundle in bundles:
        fitting |= {"sample_fps": bundle.sample_fps, "embedder": bundle.embedder}
        if bundle.scope == "person":
            fitting["classes"] = bundle.classes
    return fitting


def check_fit(bundles: Sequence[Bundle], config: Config) -> None:
    """Raise if models can't label these features; warn if they were trained on others."""
    for bundle in bundles:
        _check_inputs(bundle, config)
    known = [label for bundle in bundles for label in bundle.labels if label != bundle.background]
    unknown = [label for label in config.labels if label not in known]
    if unknown and bundles:
        names = " and ".join(repr(bundle.name) for bundle in bundles)
        raise UsageError(f"model {names} has no label {', '.join(map(repr, unknown))}; it knows {', '.join(known)}")


def _check_inputs(bundle: Bundle, config: Config) -> None:
    if bundle.embedder != config.embedder:
        raise UsageError(
            f"model {bundle.name!r} reads embeddings of {bundle.embedder!r}, but embedder = {config.embedder!r}; "
            "use the same, or train a model for it"
        )
    missing = [name for name in bundle.spec.inputs if name not in config.embedded]
    if missing:
        raise UsageError(
            f"model {bundle.name!r} reads {', '.join(bundle.spec.inputs)}, but inputs lack {', '.join(missing)}; "
            "name them, or train a model for what there is"
        )
    if bundle.sample_fps != config.sample_fps:
        log.warning(
            "model %r was trained at %g frames/s; at %g its scores are less sure",
            bundle.name, bundle.sample_fps, config.sample_fps,
        )  # fmt: skip
