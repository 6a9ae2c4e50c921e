"""Files that were videos once: real ones, broken at random but always in the same way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

Rng = np.random.Generator

_FIELDS = (0, 1, 2, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
"""Numbers at which arithmetic goes wrong."""
_HEADER_BYTES = 4096


def flip_bits(content: bytearray, _: Sequence[bytes], rng: Rng) -> bytearray:
    """Flip some bits anywhere."""
    for place in rng.integers(0, len(content), int(2 ** rng.integers(0, 8))):
        content[place] ^= 1 << int(rng.integers(0, 8))
    return content


def cut_off(content: bytearray, _: Sequence[bytes], rng: Rng) -> bytearray:
    """Lose the end, or the beginning."""
    at = int(rng.integers(1, len(content)))
    return content[:at] if rng.random() < 0.8 else content[at:]


def splice(content: bytearray, others: Sequence[bytes], rng: Rng) -> bytearray:
    """Go on as another file."""
    other = others[int(rng.integers(0, len(others)))]
    return content[: int(rng.integers(1, len(content)))] + other[int(rng.integers(0, len(other))) :]


def edit_header(content: bytearray, _: Sequence[bytes], rng: Rng) -> bytearray:
    """Put telling numbers into fields near the beginning or the end, where containers keep their tables."""
    for _field in range(int(rng.integers(1, 9))):
        width = int(rng.choice([1, 2, 4]))
        near = int(rng.integers(0, min(_HEADER_BYTES, len(content) - width)))
        at = near if rng.random() < 0.5 else len(content) - width - near
        value = int(rng.choice(_FIELDS)) & (256**width - 1)
        content[at : at + width] = value.to_bytes(width, "big" if rng.random() < 0.7 else "little")
    return content


def blank(content: bytearray, _: Sequence[bytes], rng: Rng) -> bytearray:
    """Overwrite a stretch by nothing, or by noise."""
    start, end = sorted(int(place) for place in rng.integers(0, len(content), 2))
    content[start:end] = bytes(end - start) if rng.random() < 0.5 else rng.bytes(end - start)
    return content


def repeat_or_drop(content: bytearray, _: Sequence[bytes], rng: Rng) -> bytearray:
    """Say a stretch twice, or not at all."""
    start, end = sorted(int(place) for place in rng.integers(0, len(content), 2))
    return content[:end] + content[start:] if rng.random() < 0.5 else content[:start] + content[end:]


MUTATIONS: tuple[Callable[[bytearray, Sequence[bytes], Rng], bytearray], ...] = (
    flip_bits, cut_off, splice, edit_header, edit_header, blank, repeat_or_drop,
)  # fmt: skip


def write_broken(sources: Sequence[Path], folder: Path, n_files: int, seed: int = 0) -> None:
    """Write so many files, each a source with one to three mutations; the same for the same seed."""
    folder.mkdir(parents=True, exist_ok=True)
    contents = [path.read_bytes() for path in sources]
    for number in range(n_files):
        rng = np.random.default_rng((seed, number))
        which = int(rng.integers(0, len(sources)))
        content = bytearray(contents[which])
        for _ in range(int(rng.integers(1, 4))):
            if len(content) > 64:
                content = MUTATIONS[int(rng.integers(0, len(MUTATIONS)))](content, contents, rng)
        (folder / f"{number:06d}{sources[which].suffix}").write_bytes(content)
