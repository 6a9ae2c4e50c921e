"""Find where files were joined end to end, in formats for which FFmpeg does not report it."""

from __future__ import annotations

from typing import BinaryIO

from pipeline.archive import filesystem

_EBML = bytes.fromhex("1a45dfa3")
_SEGMENT = bytes.fromhex("18538067")
# First bytes of files of these formats. FFmpeg ends where another file begins.
_BEGINNINGS = {"flv": b"FLV\x01", "asf": bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")}
_BLOCK_BYTES = 1 << 20


def has_one_index(uri: str, format_name: str) -> bool:
    """Whether the index of a Matroska or WebM file, if it has one, covers the whole file.

    It does not if other files were appended. A stream whose length was never written counts as not covered.

    Args:
        uri: Local path or remote URI of the file.
        format_name: FFmpeg's name for its format; files of other formats have one index.

    Raises:
        OSError: The file can't be read.
    """
    if format_name != "matroska,webm":
        return True
    with filesystem.open_bytes(uri) as file:
        n_bytes = _element_size(file, _EBML)
        if n_bytes is None:
            return False
        file.seek(n_bytes, 1)
        n_bytes = _element_size(file, _SEGMENT)
        if n_bytes is None:
            return False
        file.seek(n_bytes, 1)
        return file.read(len(_EBML)) != _EBML


def next_recording(uri: str, format_name: str, after: int) -> int | None:
    """Return the byte at which the next recording of a joined FLV or WMV file begins; None where there is none.

    Args:
        uri: Local path or remote URI of the file.
        format_name: FFmpeg's name for its format; FFmpeg reads other formats to their end.
        after: Byte from which to look.

    Raises:
        OSError: The file can't be read.
    """
    beginning = _BEGINNINGS.get(format_name)
    if beginning is None:
        return None
    with filesystem.open_bytes(uri) as file:
        at = file.seek(after)
        kept = b""
        while block := file.read(_BLOCK_BYTES):
            found = (kept + block).find(beginning)
            if found >= 0:
                return at - len(kept) + found
            at += len(block)
            kept = (kept + block)[1 - len(beginning) :]
    return None


def _element_size(file: BinaryIO, name: bytes) -> int | None:
    """Read the head of an EBML element and return the bytes of its content; None for another element or no length."""
    if file.read(len(name)) != name:
        return None
    first = file.read(1)
    if not first or not first[0]:
        return None
    # The leading zeros of the first byte are the number of bytes that follow. All ones mean that the length is unknown.
    n_following = 8 - first[0].bit_length()
    n_bits = 7 * (n_following + 1)
    size = int.from_bytes(first + file.read(n_following), "big") & ((1 << n_bits) - 1)
    return None if size == (1 << n_bits) - 1 else size
