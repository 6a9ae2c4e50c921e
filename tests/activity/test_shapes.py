from __future__ import annotations

import numpy as np
import pytest

from pipeline.activity.heads import HEADS
from pipeline.activity.model import ActivityModel
from pipeline.activity.shapes import check_weights, parameter_shapes
from pipeline.activity.spec import VIEWS, ModelSpec


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("projection_dim", [None, 12])
def test_a_model_has_the_parameters_that_are_told_without_it(
    head: str, bidirectional: bool, projection_dim: int | None
) -> None:
    inputs = ("frame", "crop_flow", "box")
    spec = ModelSpec(inputs, 12, 5, head, 8, bidirectional, 3, projection_dim, reach=7, views=VIEWS)
    found = {name: tuple(each.shape) for name, each in ActivityModel(spec).state_dict().items()}
    assert parameter_shapes(spec) == found


def test_what_does_not_fit_is_named() -> None:
    spec = ModelSpec(("frame",), 4, 2, "linear")
    weights = {"members.0.head.output.weight": np.zeros((2, 4)), "members.0.head.output.bias": np.zeros(2)}
    check_weights(spec, weights)
    for wrong in ({"more": np.zeros(1)}, {"members.0.head.output.weight": np.zeros((3, 4))}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            check_weights(spec, weights | wrong)
    with pytest.raises(ValueError, match="bias has the shape None"):
        check_weights(spec, {name: each for name, each in weights.items() if "bias" not in name})
