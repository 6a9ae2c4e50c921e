"""One step of a whole causal model in PyTorch, to be written as ONNX.

`pipeline.activity.graphs` has the same step for OpenVINO.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from pipeline.activity.graphs import n_states, n_step_states
from pipeline.activity.model import ActivityModel, normalised


class Step(nn.Module):
    """Takes inputs and a state, and returns logits and the next state; shapes as in `step_graph`."""

    def __init__(self, model: ActivityModel) -> None:
        """Take a model of LSTMs or GRUs that are not bidirectional."""
        super().__init__()
        self.model, self.spec = model.eval(), model.spec

    def example(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return inputs of the right shapes."""
        return torch.zeros(1, self.spec.input_dim), torch.zeros(n_step_states(self.spec), 1, self.spec.hidden_dim)

    def forward(self, x: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the logits and the next state."""
        parts = normalised(x, self.spec, self.spec.inputs)
        logits, after = [], []
        before = iter(state.unbind(0))
        for member in self.model.members:
            own: Any = member
            hidden = own.encode(parts)
            for layer in range(self.spec.num_layers):
                carried = [next(before) for _ in range(n_states(self.spec.head))]
                weights = [getattr(own.head.recurrence, f"{name}_l{layer}") for name in _WEIGHTS]
                if len(carried) > 1:
                    carried = list(torch.lstm_cell(hidden, carried, *weights))
                else:
                    carried = [torch.gru_cell(hidden, carried[0], *weights)]
                hidden = carried[0]
                after += carried
            logits.append(own.head.output(hidden))
        return self.model.together(logits), torch.stack(after)


_WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
