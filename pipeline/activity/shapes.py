"""The names and shapes of an activity model's parameters."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pipeline.activity.spec import ModelSpec, seen

Shapes = dict[str, tuple[int, ...]]
"""Shapes of parameters, by the names that PyTorch gives them."""

ATTENTION_HEADS = 4
"""Attention heads of the transformer: enough for the usual widths, which must be multiples of it."""


def check_weights(spec: ModelSpec, weights: Mapping[str, NDArray[np.floating]]) -> None:
    """Raise if parameters do not fit the description of a model.

    Raises:
        ValueError: A parameter is missing, is unexpected, or has another shape.
    """
    wanted, found = parameter_shapes(spec), {name: each.shape for name, each in weights.items()}
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            raise ValueError(f"{name} has the shape {found.get(name)}, but {wanted.get(name)} is expected")


def parameter_shapes(spec: ModelSpec) -> Shapes:
    """Return the shapes of a model's parameters."""
    shapes: Shapes = {}
    for number, view in enumerate(spec.views):
        own = replace(spec, inputs=seen(view, spec.inputs))
        parts = {"head": _of_head(own)}
        if spec.projection_dim:
            parts["projection"] = _linear(own.input_dim, spec.projection_dim)
        shapes |= _within(f"members.{number}", _within_all(parts))
    return shapes


def _of_head(spec: ModelSpec) -> Shapes:
    if spec.head in ("lstm", "gru"):
        return _of_recurrence(spec)
    if spec.head == "transformer":
        return _of_transformer(spec)
    if spec.head == "linear":
        return _within("output", _linear(spec.encoded_dim, spec.n_labels))
    if spec.head == "majority":
        return {"output": (spec.n_labels,)}
    raise ValueError(f"there is no head {spec.head!r}")


def _of_recurrence(spec: ModelSpec) -> Shapes:
    n_gates = {"lstm": 4, "gru": 3}[spec.head] * spec.hidden_dim
    ways = ["", "_reverse"] if spec.bidirectional else [""]
    width = spec.hidden_dim * len(ways)
    shapes: Shapes = {}
    for layer, way in itertools.product(range(spec.num_layers), ways):
        of_one = {
            "weight_ih": (n_gates, width if layer else spec.encoded_dim), "weight_hh": (n_gates, spec.hidden_dim),
            "bias_ih": (n_gates,), "bias_hh": (n_gates,),
        }  # fmt: skip
        shapes |= {f"recurrence.{name}_l{layer}{way}": shape for name, shape in of_one.items()}
    return shapes | _within("output", _linear(width, spec.n_labels))


def _of_transformer(spec: ModelSpec) -> Shapes:
    dim = spec.hidden_dim
    layer = {
        "norm": _norm(dim), "query_key_value": _linear(dim, 3 * dim), "joined": _linear(dim, dim),
        "feed_forward.0": _norm(dim), "feed_forward.1": _linear(dim, 2 * dim), "feed_forward.4": _linear(2 * dim, dim),
    }  # fmt: skip
    parts = {"entry": _linear(spec.encoded_dim, dim), "output.0": _norm(dim), "output.2": _linear(dim, spec.n_labels)}
    parts |= {f"layers.{number}": _within_all(layer) for number in range(spec.num_layers)}
    return _within_all(parts) | {"distance_bias": (spec.num_layers, ATTENTION_HEADS, 2 * spec.reach + 1)}


def _linear(n_in: int, n_out: int) -> Shapes:
    return {"weight": (n_out, n_in), "bias": (n_out,)}


def _norm(dim: int) -> Shapes:
    return {"weight": (dim,), "bias": (dim,)}


def _within_all(parts: Mapping[str, Shapes]) -> Shapes:
    return {name: shape for part, shapes in parts.items() for name, shape in _within(part, shapes).items()}


def _within(part: str, shapes: Shapes) -> Shapes:
    return {f"{part}.{name}": shape for name, shape in shapes.items()}
