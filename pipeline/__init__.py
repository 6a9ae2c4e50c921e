"""actionlake: from an archive of video to a queryable lake of labelled activity segments.

`analyze`, `classify`, `forecast`, `train`, `train_forecaster` and `open_lake` work on archives. `decode`, `detect`,
`follow`, `embed`, `label` do the same steps with frames in memory.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.activity.bundle import Bundle, load_bundle
    from pipeline.config import Config
    from pipeline.engine.analyze import analyze
    from pipeline.engine.forecast import forecast
    from pipeline.engine.relabel import classify
    from pipeline.engine.train import train
    from pipeline.engine.train_forecaster import train_forecaster
    from pipeline.errors import ActionlakeError, UsageError, VideoError
    from pipeline.lake.query import open_lake
    from pipeline.pieces import Frame, Segment, decode, detect, embed, follow, label
    from pipeline.vision.detector import Boxes

__all__ = [
    "ActionlakeError",
    "Boxes",
    "Bundle",
    "Config",
    "Frame",
    "Segment",
    "UsageError",
    "VideoError",
    "analyze",
    "classify",
    "decode",
    "detect",
    "embed",
    "follow",
    "forecast",
    "label",
    "load_bundle",
    "open_lake",
    "train",
    "train_forecaster",
]
_HOME = {
    **dict.fromkeys(("ActionlakeError", "UsageError", "VideoError"), "pipeline.errors"),
    **dict.fromkeys(("Bundle", "load_bundle"), "pipeline.activity.bundle"),
    **dict.fromkeys(("Frame", "Segment", "decode", "detect", "embed", "follow", "label"), "pipeline.pieces"),
    "Boxes": "pipeline.vision.detector",
    "Config": "pipeline.config",
    "analyze": "pipeline.engine.analyze",
    "classify": "pipeline.engine.relabel",
    "forecast": "pipeline.engine.forecast",
    "open_lake": "pipeline.lake.query",
    "train": "pipeline.engine.train",
    "train_forecaster": "pipeline.engine.train_forecaster",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that a worker that only decodes does not load the rest."""
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'pipeline' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the public names, for completion in notebooks."""
    return sorted(__all__)
