"""OpenVINO graphs for the parts of an activity network, built from its weights without PyTorch.

On a CPU they compute what PyTorch computes, in the same time: both run oneDNN's kernels.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.activity.spec import OF_TRACKS, ModelSpec, seen

if TYPE_CHECKING:
    import openvino as ov

Weights = Mapping[str, NDArray[np.floating]]
"""Parameters by name, as PyTorch names them."""

_NORM_EPSILON = 1e-5
# Positions of OpenVINO's gates among PyTorch's: forget, in, candidate, out; for a GRU update, reset, candidate.
_GATES = {"lstm": (1, 0, 2, 3), "gru": (1, 0, 2)}


class Compiled:
    """A graph that is ready to run on one thread in f32; several threads may call it."""

    def __init__(self, graph: ov.Model) -> None:
        options = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": 1,
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,
        }
        self._compiled = _core().compile_model(graph, "CPU", options)
        self._own = threading.local()

    def __call__(self, *inputs: NDArray[Any]) -> list[NDArray[np.float32]]:
        """Return the outputs."""
        if not hasattr(self._own, "request"):
            self._own.request = self._compiled.create_infer_request()
        return list(self._own.request.infer(list(inputs)).values())


@functools.cache
def _core() -> ov.Core:
    import openvino

    return openvino.Core()


def encoder_graph(spec: ModelSpec, inputs: Sequence[str], weights: Weights) -> ov.Model:
    """Return the graph from inputs `float32 [t, input_dim]` to a head's input, `float32 [t, encoded_dim]`.

    Args:
        spec: The description of the model.
        inputs: The inputs that this network sees.
        weights: `weight` and `bias` of the projection; empty without one.
    """
    from openvino import opset13 as op

    x = op.parameter([-1, spec.input_dim], np.float32)
    return _model([x], _encoded(x, spec, inputs, weights))


def _encoded(x: Any, spec: ModelSpec, inputs: Sequence[str], weights: Weights) -> Any:
    from openvino import opset13 as op

    parts = dict(
        zip(spec.inputs, op.variadic_split(x, op.constant(1), op.constant(list(spec.dims))).outputs(), strict=True)
    )
    normed = [
        parts[name]
        if name in OF_TRACKS
        else op.mvn(parts[name], op.constant([1]), True, _NORM_EPSILON, "inside_sqrt").output(0)
        for name in inputs
    ]
    return linear(op.concat(normed, 1), weights) if weights else op.concat(normed, 1)


def linear_graph(weights: Weights) -> ov.Model:
    """Return the graph of a linear layer with `weight` `[n_out, n_in]` and `bias`, for rows `float32 [t, n_in]`."""
    from openvino import opset13 as op

    x = op.parameter([-1, weights["weight"].shape[1]], np.float32)
    return _model([x], linear(x, weights))


def linear(x: Any, weights: Weights) -> Any:
    """Return the node of a linear layer over the node `x`."""
    from openvino import opset13 as op

    product = op.matmul(x, op.constant(_f32(weights["weight"])), False, True)
    return op.add(product, op.constant(_f32(weights["bias"])))


def recurrence_graph(kind: str, weights: Weights) -> ov.Model:
    """Return the graph of a layer of an LSTM or a GRU, in one direction.

    Inputs are `float32 [B, t, n_in]`, the state before (hidden, and for an LSTM the cell's), `float32 [B, 1, H]` each,
    and the number of steps of each sequence, `int32 [B]`. Outputs are the hidden state of each step,
    `float32 [B, t, H]`, and the state after the last one.

    Args:
        kind: `lstm` or `gru`.
        weights: `weight_ih`, `weight_hh`, `bias_ih`, `bias_hh`.
    """
    from openvino import opset13 as op

    hidden_dim = weights["weight_hh"].shape[1]
    x = op.parameter([-1, -1, weights["weight_ih"].shape[1]], np.float32)
    state = [op.parameter([-1, 1, hidden_dim], np.float32) for _ in range(n_states(kind))]
    lengths = op.parameter([-1], np.int32)
    run = op.lstm_sequence if kind == "lstm" else op.gru_sequence
    options = {} if kind == "lstm" else {"linear_before_reset": True}
    constants = [op.constant(each[None]) for each in gate_weights(kind, weights)]
    node = run(x, *state, lengths, *constants, hidden_dim, "forward", **options)
    hidden = op.squeeze(node.output(0), op.constant(1)).output(0)
    return _model([x, *state, lengths], hidden, *(node.output(1 + number) for number in range(len(state))))


def step_graph(spec: ModelSpec, weights: Weights) -> ov.Model:
    """Return the graph of one step of a whole causal model, with its state as input and output.

    Inputs are `x`, `float32 [1, input_dim]`, and `state`, `float32 [S, 1, hidden_dim]`, zeros at the start of a
    sequence. Outputs are the logits, `float32 [1, n_labels]`, and the next state.

    Args:
        spec: The description of a model of LSTMs or GRUs that are not bidirectional.
        weights: All its parameters.
    """
    from openvino import opset13 as op

    n = n_step_states(spec)
    x = op.parameter([1, spec.input_dim], np.float32, "x")
    state = op.parameter([n, 1, spec.hidden_dim], np.float32, "state")
    before = iter(op.split(state, op.constant(0), n).outputs())
    after, logits = [], []
    for number, view in enumerate(spec.views):
        of_member = part_of(weights, f"members.{number}")
        hidden = _encoded(x, spec, seen(view, spec.inputs), part_of(of_member, "projection"))
        for layer in range(spec.num_layers):
            of_layer = of_direction(part_of(of_member, "head.recurrence"), f"_l{layer}")
            carried = [op.squeeze(next(before), op.constant(0)) for _ in range(n_states(spec.head))]
            hidden, *carried = _cell(spec, hidden, carried, of_layer)
            after += [op.unsqueeze(each, op.constant(0)) for each in (hidden, *carried)]
        logits.append(linear(hidden, part_of(of_member, "head.output")))
    mean = op.divide(functools.reduce(op.add, logits), op.constant(np.float32(len(logits))))
    return _model([x, state], mean.output(0), op.concat(after, 0).output(0))


def n_step_states(spec: ModelSpec) -> int:
    """Return how many vectors the state of a whole causal model has."""
    return len(spec.views) * spec.num_layers * n_states(spec.head)


def _cell(spec: ModelSpec, x: Any, state: Sequence[Any], weights: Weights) -> list[Any]:
    """Return the state after one step of a layer, the hidden state first."""
    from openvino import opset13 as op

    of_input, of_state, bias = (op.constant(each) for each in gate_weights(spec.head, weights))
    if spec.head == "lstm":
        return list(op.lstm_cell(x, *state, of_input, of_state, bias, spec.hidden_dim).outputs())
    cell = op.gru_cell(x, *state, of_input, of_state, bias, spec.hidden_dim, linear_before_reset=True)
    return [cell.output(0)]


def gate_weights(kind: str, weights: Weights) -> list[NDArray[np.float32]]:
    """Return the weights of inputs and of the state, and the bias, with the gates in OpenVINO's order."""
    order = list(_GATES[kind])
    of_input, of_state, input_bias, state_bias = (
        np.split(_f32(weights[name]), len(order)) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    bias = [input_bias[gate] + state_bias[gate] for gate in order]
    if kind == "gru":
        # The candidate's two biases are added before and after the reset, and stay separate.
        bias[-1:] = [input_bias[-1], state_bias[-1]]
    return [
        np.concatenate([of_input[gate] for gate in order]),
        np.concatenate([of_state[gate] for gate in order]),
        np.concatenate(bias),
    ]


def part_of(weights: Weights, name: str) -> dict[str, NDArray[np.floating]]:
    """Return the parameters of a part of a network, by their names within it."""
    return {key.removeprefix(f"{name}."): each for key, each in weights.items() if key.startswith(f"{name}.")}


def of_direction(weights: Weights, suffix: str) -> dict[str, NDArray[np.floating]]:
    """Return the parameters of one layer of a recurrence, in one direction, without the suffix of their names."""
    return {name: weights[f"{name}{suffix}"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}


def n_states(kind: str) -> int:
    """Return how many vectors the state of an LSTM or a GRU has."""
    return 2 if kind == "lstm" else 1


def _model(inputs: Sequence[Any], *outputs: Any) -> ov.Model:
    import openvino

    return openvino.Model(list(outputs), list(inputs))


def _f32(values: NDArray[np.floating]) -> NDArray[np.float32]:
    return np.ascontiguousarray(values, np.float32)
