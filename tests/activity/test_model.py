"""The activity network by itself."""

import torch
from torch.nn.utils.rnn import pack_sequence

from pipeline.activity.model import Member, ModelSpec


def test_dropped_inputs_stay_dropped_through_a_sequence() -> None:
    """One mask for all steps of a sequence, another for another; none when it is not trained."""
    torch.manual_seed(1)
    model = Member(ModelSpec(("frame", "crop"), 32, 3, hidden_dim=4, projection_dim=8), input_dropout=0.5)
    seen: list[torch.Tensor] = []
    model.projection.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    vector = torch.randn(64)
    packed = pack_sequence([vector.repeat(n, 1) for n in (2, 5, 3)], enforce_sorted=False)
    model.train()(packed)
    (trained,) = seen
    first_sorted = torch.tensor([int(packed.batch_sizes[:step].sum()) for step in range(5)])
    longest, second = trained[first_sorted], trained[first_sorted[:3] + 1]
    assert (longest == longest[0]).all()
    assert (second == second[0]).all()
    assert 0.2 < float((longest[0] == 0).float().mean()) < 0.8
    assert ((longest[0] == 0) != (second[0] == 0)).any()
    model.eval()(packed)
    assert not (seen[1] == 0).any()
