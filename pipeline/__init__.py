"""actionlake: from an archive of video to a queryable lake of labelled activity segments."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.activity.bundle import load_bundle
    from pipeline.config import Config
    from pipeline.engine.analyze import analyze
    from pipeline.engine.train import train
    from pipeline.errors import ActionlakeError, UsageError
    from pipeline.lake.query import open_lake

__all__ = ["ActionlakeError", "Config", "UsageError", "analyze", "load_bundle", "open_lake", "train"]
_HOME = {
    "ActionlakeError": "pipeline.errors",
    "Config": "pipeline.config",
    "UsageError": "pipeline.errors",
    "analyze": "pipeline.engine.analyze",
    "load_bundle": "pipeline.activity.bundle",
    "open_lake": "pipeline.lake.query",
    "train": "pipeline.engine.train",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: a worker that only decodes need not load all the rest."""
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
