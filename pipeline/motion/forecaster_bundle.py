"""A forecaster bundle: a folder with weights, `model.json` and a model card."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from pipeline.bounded import OPTIONS_BYTES, read_bounded
from pipeline.config import digest
from pipeline.errors import UsageError

if TYPE_CHECKING:
    from pipeline.motion.forecasting import Forecaster

EMBEDDED_FORECASTERS = ("walkers-lstm",)
"""Names of the forecasters that come with the package."""
HEIGHTS, METRES = "heights", "m"
"""Units of forecasters: heights of the person in the picture, and metres on the ground."""
_FORMAT = 1


@dataclass(frozen=True)
class ForecasterBundle:
    """A trained forecaster with everything that is needed to use it correctly."""

    name: str
    """Names the partition `model=<name>` of its forecasts."""
    spec: dict[str, Any]
    """The description of the network; see `ForecasterSpec`."""
    weights: Mapping[str, NDArray[np.floating]] = field(repr=False)
    """Its parameters, by name."""
    training: dict[str, Any] = field(default_factory=dict)
    """What it was trained on and how."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """Results of measuring it."""
    sha256: str = ""
    """Digest of the weights, filled in when a bundle is read."""

    @property
    def unit(self) -> str:
        """Unit of its places, `HEIGHTS` or `METRES`."""
        return str(self.spec["unit"])

    @property
    def step_s(self) -> float:
        """Seconds from one step to the next."""
        return float(self.spec["step_s"])

    @property
    def n_observed(self) -> int:
        """Steps that it sees, up to now."""
        return int(self.spec["n_observed"])

    @property
    def longest_s(self) -> float:
        """How far ahead it forecasts, in seconds."""
        return int(self.spec["n_foretold"]) * self.step_s

    @property
    def options_digest(self) -> str:
        """Digest of everything except the weights that determines its forecasts."""
        return digest(self.spec)

    @cached_property
    def model(self) -> Forecaster:
        """The network, in evaluation mode; it is built at its first use, because it needs PyTorch."""
        import torch

        from pipeline.motion.forecasting import Forecaster, ForecasterSpec

        network = Forecaster(ForecasterSpec(**(self.spec | {"spread": tuple(self.spec["spread"])})))
        network.load_state_dict({name: torch.from_numpy(values).float() for name, values in self.weights.items()})
        return network.eval()

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the network, which can be rebuilt from the rest."""
        return {name: value for name, value in vars(self).items() if name != "model"}

    @classmethod
    def of(cls, name: str, model: Forecaster, training: dict[str, Any], metrics: dict[str, Any]) -> ForecasterBundle:
        """Return the bundle of a trained network."""
        weights = {key: tensor.cpu().numpy() for key, tensor in model.state_dict().items()}
        return cls(name, asdict(model.spec), weights, training, metrics)

    def save(self, folder: str | Path, card: str = "") -> None:
        """Write the bundle into a folder.

        Args:
            folder: The target; created if missing.
            card: Text of the model card, `README.md`.
        """
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        weights = {name: np.ascontiguousarray(values, np.float32) for name, values in self.weights.items()}
        (target / "model.safetensors").write_bytes(save(weights))
        record = {
            "format": _FORMAT,
            "task": "forecast",
            "name": self.name,
            "model": self.spec,
            "training": self.training,
            "metrics": self.metrics,
        }
        (target / "model.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        (target / "README.md").write_text(card or f"# {self.name}\n", encoding="utf-8")


def load_forecaster(folder: str | Path) -> ForecasterBundle:
    """Read a bundle from a folder, or by name one of those that come with the package.

    Raises:
        UsageError: The folder is not a bundle, or its files do not fit together.
    """
    source = Path(folder).expanduser()
    if str(folder) in EMBEDDED_FORECASTERS and not source.exists():
        source = Path(str(files("pipeline.motion") / "bundles" / str(folder)))
    way_out = "name a folder that `actionlake train-forecaster` wrote"
    try:
        record = json.loads(read_bounded(source / "model.json", OPTIONS_BYTES))
        if record.get("task") != "forecast" or record.get("format") != _FORMAT:
            raise UsageError(f"{source}: not a forecaster bundle of format {_FORMAT}; {way_out}")
        weights = load_file(source / "model.safetensors")
        sha256 = hashlib.sha256((source / "model.safetensors").read_bytes()).hexdigest()
        bundle = ForecasterBundle(
            record["name"], record["model"], weights, record["training"], record["metrics"], sha256
        )
        _ = bundle.model  # Built now, to check that it can be built.
    except FileNotFoundError as error:
        missing = Path(error.filename or "model.safetensors").name
        raise UsageError(f"{source}: not a forecaster bundle, {missing} is missing; {way_out}") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError, SafetensorError) as error:
        raise UsageError(f"{source}: unreadable forecaster bundle ({error}); {way_out}") from error
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise UsageError(f"{source}: model.json and the weights do not fit together ({error}); {way_out}") from error
    return bundle
