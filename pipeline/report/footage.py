"""Find the videos of a lake where they are now."""

from __future__ import annotations

import functools

from pipeline.archive.probe import Probe, probe_video
from pipeline.archive.sources import list_videos
from pipeline.errors import UsageError, VideoError
from pipeline.training.videos import VideoFolder

_KEPT = 64


class Footage:
    """Finds and probes videos. It caches the last few results."""

    def __init__(self, videos_root: str | None = None) -> None:
        """Take the folder of the videos, if they were moved.

        A video is matched to the file in that folder that shares the longest end of its path.
        """
        self._folder = VideoFolder(videos_root) if videos_root is not None else None
        self._opened = functools.lru_cache(_KEPT)(self._open)

    def find(self, uri: str, size_bytes: int | None) -> tuple[str, Probe]:
        """Return where a video is now, and its probe.

        Args:
            uri: Where it was when it was analyzed.
            size_bytes: Its size then. None: unknown.

        Raises:
            VideoError: The video is not there, is another file, or can't be read.
        """
        return self._opened(uri, size_bytes)

    def _open(self, uri: str, size_bytes: int | None) -> tuple[str, Probe]:
        try:
            there = uri if self._folder is None else self._folder.uri(self._folder.path_of(uri))
            (ref,) = list_videos([there])
        except UsageError as error:
            if self._folder is not None:
                raise VideoError("missing", str(error)) from error
            raise VideoError(
                "missing", f"{uri}: not there any more; if the videos were moved, name their folder by --videos-root"
            ) from error
        if size_bytes is not None and size_bytes >= 0 and ref.size_bytes not in (size_bytes, -1):
            raise VideoError(
                "missing",
                f"{there}: another file than the one that was analyzed ({ref.size_bytes} bytes, not {size_bytes}); "
                "analyze it again",
            )
        return there, probe_video(ref)
