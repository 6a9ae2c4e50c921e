"""Write a report: a page and its clips, in one folder. The page opens from disk."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from pipeline.errors import Interrupted, UsageError
from pipeline.lake.query import LakeReader, open_lake
from pipeline.lake.schemas import SEGMENTS
from pipeline.lake.search import Hit
from pipeline.report.cutting import Cut, CutOptions, Run, Written, plan_cuts, unfinished
from pipeline.report.page import page_data, render
from pipeline.video.clips import drop_parts, part_of

# Estimated size of one second of a clip.
_USUAL_BYTES_PER_S = 60_000
# A file that marks the clips folder of a report. Only a marked folder may be emptied by the next report.
_MARK = ".actionlake-report"
_OVER_LIMIT = "the clips before it took all of --max-mb"


def write_report(
    lake: str,
    out: str | Path,
    run: Run,
    where: str | None = None,
    model: str | None = None,
    videos_root: str | None = None,
    max_mb: float = 500.0,
    title: str | None = None,
) -> Written:
    """Write `index.html` and the folder `clips` beside it.

    Args:
        lake: The lake.
        out: A folder, made if it is not there.
        run: Cuts the clips.
        where: A condition in SQL on the columns of `segments`. None: all of them.
        model: The model whose segments are shown. None: the only model.
        videos_root: Where the videos are now, if they were moved.
        max_mb: Most megabytes of all clips. Segments without a clip are still listed. 0: no clips.
        title: Title of the page. None: the lake's name.

    Raises:
        UsageError: There is no lake or no such model, no segment meets the condition, or the folder can't be written.
    """
    reader = open_lake(lake)
    segments = reader.segments(where, model)
    if where is not None and not segments.num_rows:
        raise UsageError(f"{lake}: no segment meets --where; there is nothing to show")
    options = CutOptions(reader.store.uri, str(Path(out) / "clips"), videos_root, reader.model(model))
    return _write(reader, segments, options, run, max_mb, title or reader.store.name)


def write_hits(
    lake: str, hits: Sequence[Hit], title: str, out: str | Path, run: Run, videos_root: str | None = None,
    max_mb: float = 500.0,
) -> Written:  # fmt: skip
    """Write a report of the hits of a search; see `write_report`. The score of a hit is its likeness.

    Raises:
        UsageError: Nothing was found, or the folder can't be written.
    """
    if not hits:
        raise UsageError(f"{lake}: nothing was found; there is nothing to show")
    rows = [
        {
            "video_id": hit.video_id, "uri": hit.uri, "segment_id": f"hit-{rank:04d}", "track_id": hit.track_id,
            "label": ", ".join(hit.labels) or "(no label)", "label_id": None, "score": max(0.0, hit.likeness),
            "novelty": None, "start_s": hit.start_s, "end_s": hit.end_s, "model": "likeness",
        }
        for rank, hit in enumerate(hits, start=1)
    ]  # fmt: skip
    schema = pa.schema([*(SEGMENTS.field(name) for name in rows[0] if name != "model"), ("model", pa.string())])
    found = pa.Table.from_pylist(rows, schema)
    reader = open_lake(lake)
    options = CutOptions(reader.store.uri, str(Path(out) / "clips"), videos_root)
    return _write(reader, found, options, run, max_mb, title, ranked=True)


def _write(
    reader: LakeReader,
    segments: pa.Table,
    options: CutOptions,
    run: Run,
    max_mb: float,
    title: str,
    ranked: bool = False,
) -> Written:
    folder = Path(options.folder).parent
    page = folder / "index.html"
    part = part_of(page)
    cuts: list[Cut] = []
    try:
        _make_room(folder)
        by_video = segments.sort_by([("uri", "ascending"), ("start_s", "ascending")]) if ranked else segments
        cuts = plan_cuts(reader, by_video.to_pylist())
        shown = _cut_all(cuts, options, run, max_mb)
        note = f"clips for {segments.num_rows - len(shown.without)}" if shown.without else ""
        data = page_data(reader, segments, title, shown.clips, shown.thumbs, shown.without, note, ranked=ranked)
        part.write_text(render(data), encoding="utf-8")
        os.replace(part, page)
        n_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    except OSError as error:
        raise UsageError(f"{folder}: can't be written to ({error.strerror or error})") from error
    except Interrupted as error:
        error.left = unfinished(folder, len(list(Path(options.folder).glob("*.mp4"))), "page")
        raise
    finally:
        drop_parts([page, *(Path(options.folder) / f"{cut.name}.mp4" for cut in cuts)])
    return Written(page, segments.num_rows, len(shown.clips), n_bytes, shown.without)


class _Shown(NamedTuple):
    """The results of cutting: records of clips for the page; thumbnails and reasons for no clip, by segment id."""

    clips: list[dict[str, Any]]
    thumbs: dict[str, str]
    without: dict[str, str]


def _cut_all(cuts: Sequence[Cut], options: CutOptions, run: Run, max_mb: float) -> _Shown:
    """Cut clips until the size limit is reached."""
    shown, budget = _Shown([], {}, {}), _Budget(max_mb * 1e6)
    for cut, result in run(options, budget.draw(cuts)):
        ids = [still.segment_id for still in cut.stills]
        if not budget.spend(cut, result.n_bytes):
            for path in (Path(options.folder) / each for each in _files_of(cut)):
                path.unlink(missing_ok=True)
            budget.left.append(cut)
            continue
        if result.failure:
            shown.without.update(dict.fromkeys(ids, result.failure))
            continue
        shown.thumbs.update({each: f"clips/{each}.jpg" for each in ids})
        place = {"video_id": cut.video_id, "start_s": result.start_s, "end_s": result.end_s}
        shown.clips.append({**place, "file": f"clips/{cut.name}.mp4", "scene": f"clips/{cut.name}.js"})
    shown.without.update({still.segment_id: _OVER_LIMIT for cut in budget.left for still in cut.stills})
    shown.clips.sort(key=lambda clip: (clip["video_id"], clip["start_s"]))
    return shown


class _Budget:
    """Hands out cuts while the clips before them leave room below the size limit."""

    def __init__(self, most_bytes: float) -> None:
        self._most, self._taken, self._promised = most_bytes, 0.0, 0.0
        self.left: list[Cut] = []

    def draw(self, cuts: Sequence[Cut]) -> Iterator[Cut]:
        """Yield cuts. If they may not all fit, draw them from the whole archive, so that each part of it gets some."""
        if sum(map(_usual_bytes, cuts)) > self._most:
            cuts = sorted(cuts, key=lambda cut: hashlib.sha1(cut.name.encode()).digest())
        for cut in cuts:
            if self._taken + self._promised + _usual_bytes(cut) > self._most:
                self.left.append(cut)
                continue
            self._promised += _usual_bytes(cut)
            yield cut

    def spend(self, cut: Cut, n_bytes: int) -> bool:
        """Record the true size of a cut, and return whether there is room for it."""
        self._promised -= _usual_bytes(cut)
        if self._taken + n_bytes > self._most:
            return False
        self._taken += n_bytes
        return True


def _files_of(cut: Cut) -> list[str]:
    return [f"{cut.name}.mp4", f"{cut.name}.js", *(f"{still.segment_id}.jpg" for still in cut.stills)]


def _usual_bytes(cut: Cut) -> float:
    return _USUAL_BYTES_PER_S * (cut.end_s - cut.start_s)


def _make_room(folder: Path) -> None:
    """Make the folder of a report, or empty that of an earlier report. Nothing else is ever deleted.

    Raises:
        UsageError: The folder holds a page or clips that are not of a report, or is not on this machine.
    """
    # `Path` removes one of the two slashes of a URL.
    if re.match(r"[a-z0-9+]{2,}:/", str(folder)):
        raise UsageError(f"{folder}: a report is written to this machine; copy the folder from there")
    clips = folder / "clips"
    mark = clips / _MARK
    if not mark.exists() and ((folder / "index.html").exists() or (clips.exists() and any(clips.iterdir()))):
        raise UsageError(f"{folder}: holds an index.html or clips that are no report's; name a folder of its own")
    clips.mkdir(parents=True, exist_ok=True)
    mark.touch()
    # The page goes first: it would show clips that no longer exist.
    (folder / "index.html").unlink(missing_ok=True)
    for path in clips.iterdir():
        if path != mark:
            path.unlink()
