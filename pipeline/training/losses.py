"""What a training minimises where an annotation leaves open which label is right."""

from __future__ import annotations

import math

import torch

from pipeline.training.sequences import IGNORE


def loss_of_either(
    logits: torch.Tensor, label_ids: torch.Tensor, alternatives: torch.Tensor, label_smoothing: float
) -> torch.Tensor:
    """Return the cross entropy summed over the labelled steps, where one of several labels may be right.

    It is the negative logarithm of the summed probability of these labels (Cour, Sapp and Taskar, "Learning from
    Partial Labels", 2011).

    Args:
        logits: `float32 [T, n_labels]`.
        label_ids: `int64 [T]`, `IGNORE` for steps without a label.
        alternatives: `bool [T, n_labels]`: labels that may be right, too.
        label_smoothing: Share of the loss in which all labels count the same.
    """
    is_labelled = label_ids != IGNORE
    log_scores, label_ids = logits[is_labelled].log_softmax(dim=-1), label_ids[is_labelled]
    may_be_right = alternatives[is_labelled].scatter(1, label_ids[:, None], True)
    of_right = log_scores.masked_fill(~may_be_right, -math.inf).logsumexp(dim=-1)
    return -((1 - label_smoothing) * of_right + label_smoothing * log_scores.mean(dim=-1)).sum()
