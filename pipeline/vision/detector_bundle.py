"""A detector bundle: a folder with a small network's weights, its description and a model card."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.bounded import OPTIONS_BYTES, read_bounded
from pipeline.errors import UsageError
from pipeline.vision.people_architecture import without_imagenet

if TYPE_CHECKING:
    import torch

_FORMAT = 1


@dataclass(frozen=True)
class DetectorBundle:
    """A trained detector with everything that is needed to use it correctly."""

    name: str
    names: dict[int, str]
    """Names of its classes."""
    px: int
    """Longest side of the input that it was trained for, in pixels."""
    architecture: dict[str, Any]
    """The network, as Ultralytics describes it in YAML."""
    weights: dict[str, NDArray[Any]]
    """Arrays by the names of the network's parameters and buffers."""
    training: dict[str, Any] = field(default_factory=dict)
    """What it was trained on and how."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """Results of measuring it."""

    @classmethod
    def from_checkpoint(cls, path: Path, px: int, metrics: dict[str, Any]) -> DetectorBundle:
        """Make a bundle of an Ultralytics checkpoint."""
        from ultralytics import YOLO

        network: Any = YOLO(str(path)).model
        # A checkpoint written during distillation from a teacher holds the network as `student_model`.
        network = getattr(network, "student_model", network)
        weights = arrays_of(network)
        architecture = without_imagenet(dict(network.yaml))
        return cls(path.stem, dict(network.names), px, architecture, weights, metrics=metrics)

    def save(self, folder: str | Path, card: str = "") -> None:
        """Write the bundle into a folder; weights are rounded to float16, which halves its size."""
        from safetensors.numpy import save

        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        halves = {
            name: np.asarray(array, np.float16 if _is_floating(array) else array.dtype, order="C")
            for name, array in self.weights.items()
        }
        (target / "model.safetensors").write_bytes(save(halves))
        record = {
            "format": _FORMAT,
            "task": "detect",
            "name": self.name,
            "names": self.names,
            "px": self.px,
            "architecture": self.architecture,
            "training": self.training,
            "metrics": self.metrics,
        }
        (target / "model.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        (target / "README.md").write_text(card or f"# {self.name}\n", encoding="utf-8")

    def network(self) -> torch.nn.Module:
        """Return the network, as Ultralytics builds it, with these weights, in inference mode."""
        network: Any = build_network(self.architecture)
        network.load_state_dict(tensors_of(self.weights))
        network.names, network.task = self.names, "pose" if "kpt_shape" in self.architecture else "detect"
        built: torch.nn.Module = network.eval()
        return built


def build_network(architecture: dict[str, Any]) -> torch.nn.Module:
    """Build a network with random weights from its description."""
    from ultralytics.nn.tasks import DetectionModel, PoseModel

    from pipeline.vision import people_network

    people_network.register()
    build = PoseModel if "kpt_shape" in architecture else DetectionModel
    network: torch.nn.Module = build(dict(architecture), verbose=False)
    if "keypoint_head" in architecture:
        people_network.add_keypoint_head(network, architecture["keypoint_head"])
    return network


def arrays_of(network: torch.nn.Module) -> dict[str, NDArray[Any]]:
    """Return copies of a network's parameters and buffers by their names."""
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in network.state_dict().items()}


def tensors_of(weights: dict[str, NDArray[Any]]) -> dict[str, torch.Tensor]:
    """Return copies of weights as tensors: `float32` whatever their precision, integers as they are."""
    import torch

    return {
        name: torch.from_numpy(array.astype(np.float32) if _is_floating(array) else array.copy())
        for name, array in weights.items()
    }


def _is_floating(array: NDArray[Any]) -> bool:
    return np.issubdtype(array.dtype, np.floating)


def embedded_detector_path(name: str) -> Path | None:
    """Return the folder of a detector that comes with the package, or None if none has that name."""
    root = Path(str(files("pipeline.vision") / "bundles"))
    return root / name if name in {folder.name for folder in root.iterdir()} else None


def load_detector_bundle(folder: str | Path) -> DetectorBundle:
    """Read a detector bundle.

    Raises:
        UsageError: The folder is not a detector bundle, or its files do not fit together.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    source = Path(folder)
    way_out = "name a folder that `jobs/train_detector.py` wrote"
    try:
        record = json.loads(read_bounded(source / "model.json", OPTIONS_BYTES))
        if record.get("task") != "detect" or record.get("format") != _FORMAT:
            raise UsageError(f"detector {str(source)!r}: not a detector bundle of format {_FORMAT}; {way_out}")
        return DetectorBundle(
            name=record["name"],
            names={int(number): name for number, name in record["names"].items()},
            px=int(record["px"]),
            architecture=record["architecture"],
            weights=load_file(source / "model.safetensors"),
            training=record["training"],
            metrics=record["metrics"],
        )
    except FileNotFoundError as error:
        missing = Path(error.filename or "model.safetensors").name
        raise UsageError(f"detector {str(source)!r}: not a bundle, {missing} is missing; {way_out}") from error
    # A weight type that NumPy does not know raises AttributeError.
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
        raise UsageError(f"detector {str(source)!r}: unreadable bundle ({error}); {way_out}") from error
