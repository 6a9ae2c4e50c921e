"""The activity network by itself."""

import torch
from torch.nn.utils.rnn import pack_sequence

from pipeline.activity.model import Member
from pipeline.activity.spec import MOTION, ModelSpec, seen


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


def test_who_sees_motion_alone_cannot_tell_one_place_from_another() -> None:
    torch.manual_seed(1)
    inputs = ("frame", "crop_change", "box")
    spec = ModelSpec(inputs, 16, 3, hidden_dim=4, projection_dim=8, views=("all", MOTION))
    x = torch.randn(6, spec.input_dim)
    elsewhere, otherwise = x.clone(), x.clone()
    elsewhere[:, :16] = torch.randn(6, 16)
    otherwise[:, 16:32] = torch.randn(6, 16)
    for number, tells_places_apart in ((0, True), (1, False)):
        member = Member(spec, number).eval()
        logits = [member(pack_sequence([of])) for of in (x, elsewhere, otherwise)]
        assert torch.equal(logits[0], logits[1]) != tells_places_apart
        assert not torch.equal(logits[0], logits[2])


def test_motion_is_that_of_people_where_there_are_any() -> None:
    assert seen(MOTION, ("frame", "frame_change", "crop", "crop_flow", "box")) == ("crop_flow", "box")
    assert seen(MOTION, ("frame", "frame_change")) == ("frame_change",)
    assert seen(MOTION, ("frame", "crop")) == ("frame", "crop")
