"""Embed texts as an embedder's image tower embeds images that show what they say."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UsageError
from pipeline.vision.backbones import OPEN_CLIP, load_open_clip, source_of


def embed_texts(embedder: str, texts: Sequence[str]) -> NDArray[np.float32]:
    """Return the vectors of texts, `float32 [N, dim]`, of length 1: their products with images' are cosines.

    The network runs in PyTorch on the CPU: a search has few texts.

    Args:
        embedder: As for `Embedder`: a model of open_clip.
        texts: What images may show. A model reads the first words of a long text, CLIP about 50.

    Raises:
        UsageError: The embedder has no text tower, can't be loaded, or its tokenizer can't; or a text is empty.
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
    except Exception as error:  # Tokenizers of others: files and downloads that raise whatever they like.
        raise UsageError(
            f"embedder = {embedder!r}: its tokenizer can't be loaded ({' '.join(str(error).split())}); it may need "
            "pip install transformers sentencepiece, and the tokenizer's files in the model's folder"
        ) from error
    with torch.inference_mode():
        vectors: NDArray[np.float32] = model.encode_text(tokens, normalize=True).float().numpy()
    return vectors
