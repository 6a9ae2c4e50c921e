"""Bundles of detectors are files of safetensors in half floats, whoever writes them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipeline.config import EMBEDDED_DETECTOR
from pipeline.errors import UsageError
from pipeline.vision.detector_bundle import load_detector_bundle
from pipeline.vision.weights import find_weights


@pytest.mark.parametrize("name", ["person_nano", EMBEDDED_DETECTOR])
def test_a_bundle_that_is_saved_again_is_the_same_to_the_byte(tmp_path: Path, name: str) -> None:
    """PyTorch wrote these."""
    folder = find_weights(name)
    load_detector_bundle(folder).save(tmp_path)
    for file in ("model.safetensors", "model.json"):
        assert (tmp_path / file).read_bytes() == (folder / file).read_bytes()


def test_numbers_that_numpy_does_not_know_are_refused(tmp_path: Path) -> None:
    load_detector_bundle(find_weights(EMBEDDED_DETECTOR)).save(tmp_path)
    for dtype in (torch.bfloat16, torch.float8_e4m3fn):
        save_file({"model.11.conv.weight": torch.zeros(4, dtype=dtype)}, tmp_path / "model.safetensors")
        with pytest.raises(UsageError, match="unreadable bundle"):
            load_detector_bundle(tmp_path)
