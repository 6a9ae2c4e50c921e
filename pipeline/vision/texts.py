"""Embed texts so that their vectors match those of images that show what the texts say."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UsageError
from pipeline.vision.backbones import OPEN_CLIP, load_open_clip, source_of


def embed_texts(embedder: str, texts: Sequence[str]) -> NDArray[np.float32]:
    """Return the vectors of texts, `float32 [N, dim]`, of length 1: dot products of unit vectors are cosines.

    The network runs in PyTorch on the CPU: a search has few texts.

    Args:
        embedder: As for `Embedder`: a model of open_clip.
        texts: What images may show. A model reads only the first words of a long text; CLIP reads about 50.

    Raises:
        UsageError: A text is empty, the embedder has no text tower, or the embedder or its tokenizer can't be loaded.
    """
    if not all(text.strip() for text in texts):
        raise UsageError("an empty text describes nothing; say what is looked for")
    if source_of(embedder).library != OPEN_CLIP:
        raise UsageError(f"embedder = {embedder!r} has no text tower; only models of open_clip read texts")
    model, name = load_open_clip(embedder)
    import open_clip
    import torch

    try:
        tokens = open_clip.get_tokenizer(name)(list(texts))
    except Exception as error:  # Third-party tokenizers read files and downloads, and can raise anything.
        raise UsageError(
            f"embedder = {embedder!r}: its tokenizer can't be loaded ({' '.join(str(error).split())}); it may need "
            "pip install transformers sentencepiece, and the tokenizer's files in the model's folder"
        ) from error
    with torch.inference_mode():
        vectors: NDArray[np.float32] = model.encode_text(tokens, normalize=True).float().numpy()
    return vectors
