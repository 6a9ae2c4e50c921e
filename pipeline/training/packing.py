"""Sequences of any lengths, packed for an LSTM."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.utils.rnn import PackedSequence


def packed(sequences: Sequence[NDArray[Any]], device: torch.device) -> PackedSequence:
    """Return the same as `pack_sequence`, but copy every vector only once."""
    lengths = np.array([len(sequence) for sequence in sequences])
    order = np.argsort(-lengths, kind="stable")
    batch_sizes = (lengths > np.arange(lengths.max())[:, None]).sum(axis=1)
    first_of_step = np.cumsum(batch_sizes) - batch_sizes
    data = np.empty((lengths.sum(), *sequences[0].shape[1:]), sequences[0].dtype)
    for rank, index in enumerate(order):
        data[first_of_step[: lengths[index]] + rank] = sequences[index]
    return PackedSequence(torch.from_numpy(data).to(device), torch.from_numpy(batch_sizes))
