"""The folder of videos that labels speak of: which file is meant, and where a frame lies in time."""

from __future__ import annotations

import difflib
import functools
import os
import posixpath
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from pipeline.archive import filesystem
from pipeline.archive.probe import Probe, probe_video
from pipeline.archive.sources import list_videos
from pipeline.errors import UsageError, VideoError
from pipeline.training.annotations import Annotation

# A span may reach past the end of its video by so much: people stop at the last frame shown, or round.
_OVERHANG_S = 0.5
# What Label Studio puts before the name of an uploaded file. (ActivityNet leaves out a `v_` in its labels.)
_UPLOADED = re.compile(r"^[0-9a-f]{8}-")


class VideoFolder:
    """Finds the videos of annotations by path, by name, or by name without suffix."""

    def __init__(self, folder: str) -> None:
        """Take a folder, local or remote; it is listed only if a path does not lead to a video at once."""
        self.folder = folder

    def uri(self, video: str) -> str:
        """Return the URI of a video by its path in the folder."""
        return filesystem.canonical_uri(filesystem.join(self.folder, video))

    def locate(self, annotations: Sequence[Annotation]) -> list[Annotation]:
        """Return the annotations with the path of their video in this folder, and in seconds.

        Raises:
            UsageError: There is no such video, there are several, or a span lies past its end.
        """
        located = []
        for each in annotations:
            video = self._find(each)
            found = replace(each, video=video)
            if found.frames is not None:
                fps = self._probe(video).fps
                if not fps:
                    raise UsageError(f"{each.where}: counts frames, but {self.uri(video)} does not tell its frame rate")
                found = replace(found, start_s=found.frames[0] / fps, end_s=found.frames[1] / fps, frames=None)
            if found.start_s or found.end_s is not None:
                found = self._within(found)
            located.append(found)
        return located

    def _within(self, annotation: Annotation) -> Annotation:
        end_s = self._probe(annotation.video).duration_s
        latest_s = max(annotation.end_s or 0.0, annotation.start_s or 0.0)
        if end_s and latest_s > end_s + _OVERHANG_S:
            raise UsageError(
                f"{annotation.where}: reaches to {latest_s:g} s, but {annotation.video} ends at {end_s:g} s"
            )
        return annotation

    def _find(self, annotation: Annotation) -> str:
        name = annotation.video
        if filesystem.is_local(self.folder) and os.path.isfile(self.uri(name)):
            return name
        base = posixpath.basename(name)
        for key in (name, base, posixpath.splitext(base)[0], f"v_{base}", _UPLOADED.sub("", base)):
            candidates = self._by_name.get(key, [])
            if len(candidates) == 1:
                return candidates[0]
            if candidates:
                raise UsageError(
                    f"{annotation.where}: video {name!r} may be {' or '.join(candidates[:3])}; write its path"
                )
        near = difflib.get_close_matches(base, self._by_name, n=1)
        hint = f"; is {self._by_name[near[0]][0]} meant?" if near else "; is it the right folder of videos?"
        raise UsageError(f"{annotation.where}: no video {name!r}; looked for {self.uri(name)}{hint}")

    @functools.cached_property
    def _by_name(self) -> dict[str, list[str]]:
        """Paths in the folder by all that they may be called."""
        root = filesystem.canonical_uri(self.folder).rstrip("/") + "/"
        names: dict[str, list[str]] = defaultdict(list)
        for ref in list_videos([self.folder]):
            path = ref.uri.removeprefix(root)
            base = posixpath.basename(path)
            for key in {path, base, posixpath.splitext(base)[0]}:
                names[key].append(path)
        return names

    @functools.cache  # noqa: B019 - lives as long as the reading of labels
    def _probe(self, video: str) -> Probe:
        uri = self.uri(video)
        try:
            return probe_video(list_videos([uri])[0])
        except VideoError as error:
            raise UsageError(f"{error}; leave its labels out") from error
