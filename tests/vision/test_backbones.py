"""Embedders of timm and open_clip: read from folders, exported, and refused with a way out."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import open_clip
import pytest
import timm
import torch
from safetensors.torch import save_file

from pipeline.errors import UsageError
from pipeline.vision.backbones import fingerprint, load_backbone, source_of
from pipeline.vision.embedder import Embedder
from pipeline.vision.runtime import Runtime
from pipeline.vision.texts import embed_texts
from tests.networks import untrained_clip, untrained_vit

F32 = Runtime("cpu", "f32")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    return untrained_clip(tmp_path_factory.mktemp("models") / "clip")


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> str:
    return untrained_vit(tmp_path_factory.mktemp("models") / "vit")


@pytest.fixture(autouse=True)
def no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACTIONLAKE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def squares(px: int) -> np.ndarray:
    """Images of a network's own size, so that nothing is resized."""
    return np.random.default_rng(0).integers(0, 255, (5, px, px, 3), dtype=np.uint8)


def own_preprocessing(images: np.ndarray, mean: list[float], std: list[float]) -> torch.Tensor:
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    return (x - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


@pytest.mark.parametrize("siglip", [False, pytest.param(True, marks=pytest.mark.long)])
def test_an_image_tower_sees_in_openvino_what_open_clip_sees(tmp_path: Path, siglip: bool) -> None:
    images = squares(64)
    folder = untrained_clip(tmp_path / "model", siglip=siglip)
    model = open_clip.create_model(f"local-dir:{folder}").eval()
    with torch.inference_mode():
        expected = model.encode_image(own_preprocessing(images, [0.5, 0.4, 0.3], [0.2, 0.3, 0.4])).numpy()
    found = Embedder(folder, F32).embed(images)
    assert found.shape == (5, 32)
    np.testing.assert_allclose(found.astype(np.float32), expected, atol=2e-3, rtol=2e-3)


def test_a_model_of_timm_sees_in_openvino_what_timm_sees(vit: str) -> None:
    images = squares(160)
    model = timm.create_model(f"local-dir:{vit}", pretrained=True, num_classes=0).eval()
    with torch.inference_mode():
        expected = model(own_preprocessing(images, [0.5] * 3, [0.5] * 3)).numpy()
    found = Embedder(vit, F32).embed(images)
    assert found.shape == (5, 64)
    np.testing.assert_allclose(found.astype(np.float32), expected, atol=2e-3, rtol=2e-3)


def test_other_weights_in_the_same_folder_are_another_export(tmp_path: Path) -> None:
    folder = untrained_clip(tmp_path / "model")
    made_of = fingerprint(folder)
    assert f"open_clip_torch {open_clip.__version__}|timm {timm.__version__}" in made_of
    assert fingerprint(folder) == made_of
    untrained_clip(tmp_path / "model", seed=1)
    assert fingerprint(folder) != made_of


def test_texts_are_embedded_as_open_clip_does(clip: str) -> None:
    texts = ["a person climbing a fence", "a dog"]
    model = open_clip.create_model(f"local-dir:{clip}").eval()
    with torch.inference_mode():
        expected = model.encode_text(open_clip.tokenize(texts)).numpy()
    found = embed_texts(clip, texts)
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-6)
    with pytest.raises(UsageError, match="an empty text"):
        embed_texts(clip, ["a dog", " "])


def test_what_reads_no_texts_says_so(vit: str) -> None:
    for name in ("efficientnet_lite0", "resnet18", vit):
        with pytest.raises(UsageError, match=f"{re.escape(repr(name))} has no text tower"):
            embed_texts(name, ["a dog"])


def test_a_tokenizer_that_is_not_there_says_what_to_do(tmp_path: Path) -> None:
    folder = Path(untrained_clip(tmp_path / "model"))
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["hf_tokenizer_name"] = "nobody/nothing"
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match=r"tokenizer can't be loaded .*; it may need pip install transformers"):
        embed_texts(str(folder), ["a dog"])


@pytest.mark.parametrize("library", ["timm", "open_clip"])
def test_a_missing_library_is_named_with_its_extra(
    library: str, clip: str, vit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    for name in (f"{library}:some/thing", vit if library == "timm" else clip):
        with pytest.raises(UsageError, match=rf"{library}, which is not installed; run pip install .*\[embedders\]"):
            Embedder(name, F32)


def test_folders_are_named_as_their_libraries_do_too(clip: str, vit: str) -> None:
    for folder, library in ((clip, "open_clip"), (vit, "timm")):
        assert source_of(f"{library}:local-dir:{folder}") == source_of(folder)
        assert source_of(folder).library == library


def test_folders_that_hold_no_model(tmp_path: Path, clip: str, vit: str) -> None:
    with pytest.raises(UsageError, match=r"models/gone': there is no such folder; put it there"):
        source_of("models/gone")
    with pytest.raises(UsageError, match=r"the folder holds no model of open_clip \(open_clip_config.json and .*timm"):
        source_of(str(tmp_path))
    (tmp_path / "config.json").write_text('{"architectures": ["CLIPModel"]}')
    with pytest.raises(UsageError, match="the folder holds no model of open_clip"):
        source_of(str(tmp_path))
    (tmp_path / "config.json").write_text((Path(vit) / "config.json").read_text())
    with pytest.raises(UsageError, match=r"timm can't load it \(.*\); the folder needs config.json and model.safe"):
        load_backbone(str(tmp_path))
    (tmp_path / "open_clip_config.json").write_text((Path(clip) / "open_clip_config.json").read_text())
    with pytest.raises(UsageError, match=r"open_clip can't load it \(.*\); the folder needs open_clip_config.json"):
        load_backbone(str(tmp_path))


def test_weights_that_do_not_fit_are_refused(tmp_path: Path, vit: str) -> None:
    """Also those of which timm would take what fits, had it been asked for no classification layer."""
    for file in Path(vit).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = timm.create_model("test_vit2", pretrained=False).state_dict()
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(UsageError, match=r"timm can't load it \(Error\(s\) in loading state_dict"):
        load_backbone(str(tmp_path))


def test_pickles_run_no_code(tmp_path: Path, clip: str, vit: str) -> None:
    class Mark:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "run",)  # type: ignore[return-value]

    for model, name in ((clip, "open_clip_pytorch_model.bin"), (vit, "pytorch_model.bin")):
        folder = tmp_path / Path(model).name
        folder.mkdir()
        for file in Path(model).glob("*.json"):
            (folder / file.name).write_bytes(file.read_bytes())
        torch.save({"weights": Mark()}, folder / name)
        with pytest.raises(UsageError, match="can't load it"):
            load_backbone(str(folder))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm:resnet5000", "timm has no such weights$"),
        ("timm:resnet18.nope", r"timm has no such weights; some are .*resnet18\.a1_in1k"),
        ("open_clip:ViT-B-32", "no such weights; name some, as in open_clip:ViT-B-32/openai, open_clip:ViT-B-32/l"),
        ("open_clip:ViT-B-32/nope", "no such weights; name some, as in open_clip:ViT-B-32/openai"),
        ("open_clip:nope/nope", "no such weights; name some, as in open_clip:RN50/openai"),
    ],
)  # fmt: skip
def test_names_that_libraries_do_not_know_lead_to_others(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=rf"^embedder = '{name}': .*{message}"):
        load_backbone(name)


@pytest.mark.parametrize(
    ("name", "repository"),
    [
        pytest.param("timm:test_vit", "timm/test_vit.r160_in1k", marks=pytest.mark.long),
        pytest.param("timm:hf-hub:nobody/nothing", "nobody/nothing", marks=pytest.mark.long),
        ("open_clip:ViT-B-32/laion2b_s34b_b79k", "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"),
        pytest.param("open_clip:hf-hub:nobody/nothing", "nobody/nothing", marks=pytest.mark.long),
    ],
)
def test_weights_that_cannot_be_had_say_what_to_put_where(name: str, repository: str) -> None:
    """In a process of its own: the hub's client asks when it is imported whether there is a network."""
    message = (
        rf"^embedder = '{name}': .* can't load it \(.*\); .* hf download {repository} --local-dir FOLDER, put FOLDER on"
    )
    with pytest.raises(UsageError, match=message):
        Embedder(name, F32)
