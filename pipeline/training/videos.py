"""The videos that labels refer to: which file is meant, and the times of its frames and its end."""

from __future__ import annotations

import difflib
import functools
import os
import re
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from pipeline.archive import filesystem
from pipeline.archive.probe import probe_video
from pipeline.archive.sources import list_videos
from pipeline.errors import UsageError, VideoError
from pipeline.lake.query import LakeReader
from pipeline.training.annotations import Annotation

# A span may end this much after its video, because people round to whole seconds, and players show longer ends.
_OVERHANG_S = 1.0
# The prefix that Label Studio adds to the name of an uploaded file. (ActivityNet leaves out a `v_` in its labels.)
_UPLOADED = re.compile(r"^[0-9a-f]{8}-")


@dataclass(frozen=True)
class Timing:
    """The frame rate and the length of one video."""

    fps: float
    """Average frame rate; 0 if the file does not tell."""
    duration_s: float
    """0 if the file does not tell."""


class _Videos(ABC):
    """Finds the videos of annotations by path, by the end of a path, by name, or by name without suffix."""

    @abstractmethod
    def paths(self) -> Iterable[str]:
        """Return the paths of all videos."""

    @abstractmethod
    def timing(self, path: str) -> Timing:
        """Return the frame rate and the length of one video."""

    @abstractmethod
    def where(self) -> str:
        """Return where the videos are, for messages."""

    def find(self, annotation: Annotation) -> str:
        """Return the path of an annotation's video.

        Raises:
            UsageError: There is no such video, or there are several.
        """
        return self._find(annotation.video, annotation.where)

    def _find(self, name: str, where: str) -> str:
        # The longest ending of the name that matches any video's path decides.
        for key in _keys(name):
            candidates = self._by_ending.get(key, [])
            if len(candidates) == 1:
                return candidates[0]
            if candidates:
                raise UsageError(
                    f"{where}: video {name!r} may be {' or '.join(sorted(candidates)[:3])}; write its path"
                )
        near = difflib.get_close_matches(name.rpartition("/")[2], self._by_ending, n=1)
        hint = f"is {self._by_ending[near[0]][0]} meant?" if near else "are these the right videos?"
        raise UsageError(f"{where}: no video {name!r} in {self.where()}; {hint}")

    def holds(self, annotation: Annotation) -> bool:
        """Whether the name of an annotation's video matches any video."""
        return any(key in self._by_ending for key in _keys(annotation.video))

    def locate(self, annotations: Sequence[Annotation]) -> list[Annotation]:
        """Return the annotations with the path of their video, and with times in seconds.

        Raises:
            UsageError: There is no such video, there are several, or a span lies past its end.
        """
        return [self._in_seconds(replace(each, video=self.find(each))) for each in annotations]

    def _in_seconds(self, annotation: Annotation) -> Annotation:
        if annotation.frames is None and not annotation.start_s and annotation.end_s is None:
            return annotation
        timing = self.timing(annotation.video)
        if annotation.frames is not None:
            if not timing.fps:
                raise UsageError(
                    f"{annotation.where}: counts frames, but {annotation.video} does not tell its frame rate"
                )
            start_s, end_s = (frame / timing.fps for frame in annotation.frames)
            annotation = replace(annotation, start_s=start_s, end_s=end_s, frames=None)
        latest_s = max(annotation.start_s or 0.0, annotation.end_s or 0.0)
        if timing.duration_s and latest_s > timing.duration_s + _OVERHANG_S:
            raise UsageError(
                f"{annotation.where}: reaches to {latest_s:g} s, but {annotation.video} ends at {timing.duration_s:g} s"
            )
        return annotation

    @functools.cached_property
    def _by_ending(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = defaultdict(list)
        for path in self.paths():
            for ending in set(_endings(path)):
                found[ending].append(path)
        return found


class VideoFolder(_Videos):
    """The videos below a folder, local or remote, by their paths in it."""

    def __init__(self, folder: str) -> None:
        """Take a folder. It is listed only if the paths of the annotations do not lead directly to videos."""
        self._folder = folder

    def uri(self, path: str) -> str:
        """Return the URI of a video by its path in the folder."""
        return filesystem.canonical_uri(filesystem.join(self._folder, path))

    def find(self, annotation: Annotation) -> str:
        """Return the path of an annotation's video; see `_Videos.find`."""
        if filesystem.is_local(self._folder) and os.path.isfile(self.uri(annotation.video)):
            return annotation.video
        return super().find(annotation)

    def path_of(self, name: str) -> str:
        """Return the path in the folder of the video that a name or an earlier path refers to.

        Raises:
            UsageError: There is no such video, or there are several.
        """
        return self._find(name, self._folder)

    def paths(self) -> Iterator[str]:
        """Yield the paths in the folder."""
        root = filesystem.canonical_uri(self._folder).rstrip("/") + "/"
        for ref in list_videos([self._folder]):
            yield ref.uri.removeprefix(root)

    @functools.cache  # noqa: B019 - lives as long as the reading of labels
    def timing(self, path: str) -> Timing:
        """Return the frame rate and the length of a video.

        Raises:
            UsageError: It can't be read.
        """
        try:
            probe = probe_video(list_videos([self.uri(path)])[0])
        except VideoError as error:
            raise UsageError(f"{error}; leave its labels out") from error
        return Timing(probe.fps, probe.duration_s)

    def where(self) -> str:
        """Return the folder."""
        return self._folder


class LakeVideos(_Videos):
    """The videos of a lake, by their URIs."""

    def __init__(self, lake: LakeReader, uri: str) -> None:
        """Take an open lake, and where it is."""
        self._uri = uri
        rows = lake.table("videos", ["uri", "fps", "duration_s"]).to_pylist()
        self._timing = {row["uri"]: Timing(row["fps"] or 0.0, row["duration_s"] or 0.0) for row in rows}

    def paths(self) -> Iterable[str]:
        """Return the URIs."""
        return self._timing

    def timing(self, path: str) -> Timing:
        """Return the frame rate and the length of a video."""
        return self._timing[path]

    def where(self) -> str:
        """Return the lake."""
        return f"lake {self._uri}"


def _keys(name: str) -> Iterator[str]:
    """Yield the possible path endings of a video, given its name in a file of labels."""
    yield from _endings(name)
    yield f"v_{name}"
    yield from _endings(_UPLOADED.sub("", name.rpartition("/")[2]))


def _endings(path: str) -> Iterator[str]:
    """Yield a path, the same without its first folders, one after the other, and its name without suffix."""
    parts = path.replace("\\", "/").split("/")
    for start in range(len(parts)):
        yield "/".join(parts[start:])
    stem, dot, _ = parts[-1].rpartition(".")
    if dot and stem:
        yield stem
