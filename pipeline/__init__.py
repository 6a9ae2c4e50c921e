"""actionlake: from an archive of video to a queryable lake of labelled activity segments."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.activity.bundle import load_bundle as load_bundle
    from pipeline.config import Config as Config
    from pipeline.engine.analyze import analyze as analyze
    from pipeline.engine.train import train as train
    from pipeline.errors import ActionlakeError as ActionlakeError
    from pipeline.errors import UsageError as UsageError
    from pipeline.lake.query import open_lake as open_lake

_PUBLIC = {
    "ActionlakeError": "pipeline.errors",
    "Config": "pipeline.config",
    "UsageError": "pipeline.errors",
    "analyze": "pipeline.engine.analyze",
    "load_bundle": "pipeline.activity.bundle",
    "open_lake": "pipeline.lake.query",
    "train": "pipeline.engine.train",
}
__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: a worker that only decodes need not load all the rest."""
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
