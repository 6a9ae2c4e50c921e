"""Merge small shards into larger ones, so that a lake that grows a little every night does not become many small files.

At every moment each row counts once. Before a merged shard is committed, a file in `_merged/` lists the shards that it
replaces. These cease to count at the moment of the commit. The next run finishes or undoes an interrupted merge.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.lake.parts import by_video, footer_of, read_part, schema_at
from pipeline.lake.patience import patiently
from pipeline.lake.plans import PLAN
from pipeline.lake.store import MERGED, Lake, merged_name, open_part, part_name


@dataclass(frozen=True)
class _Shard:
    """The facts that decide which shards can be merged with this one."""

    number: int
    n_videos: int
    hours: float
    folders: tuple[str, ...]
    """The folders in which it has parts, `videos` first."""
    footers: str
    """Column names and footers of these parts, as JSON."""


def compact(lake: Lake, max_videos: int, max_hours: float) -> tuple[int, int]:
    """Merge neighbouring committed shards as far as the limits allow; return their number before and after.

    Only shards with the same options and the same models are merged. The caller must hold the lake's lease.

    Args:
        lake: The lake.
        max_videos: Most videos in a merged shard.
        max_hours: Most hours of video in a merged shard.

    Raises:
        UsageError: There is no lake.
    """
    lake.features_made_with()
    tidy(lake)
    before = lake.committed()
    group: list[_Shard] = []
    for shard in (*map(functools.partial(_describe, lake), before), None):
        fits = shard is not None and _fits(group, shard, max_videos, max_hours)
        if not fits:
            if len(group) > 1:
                _merge(lake, group)
            group = []
        if shard is not None:
            group.append(shard)
    return len(before), len(lake.committed())


def tidy(lake: Lake) -> int:
    """Finish or undo interrupted merges and delete leftovers of runs; return how many of both there were."""
    merges = lake.merges()
    for number, sources in merges.items():
        if lake.is_committed(number):
            _retire(lake, number, sources)
        else:
            lake.drop_shard(number)
            _forget(lake, number)
    return len(merges) + lake.sweep()


def _describe(lake: Lake, number: int) -> _Shard:
    videos = read_part(lake, "videos", number, ["covered_s"])
    found = [folder for folder in lake.folders() if lake.has_part(folder, number)]
    # Parts of earlier releases have fewer columns, so column names are compared, too.
    footers = [(schema.names, _footer(schema)) for schema in (schema_at(lake, folder, number) for folder in found)]
    hours = sum(videos["covered_s"].to_pylist()) / 3600
    return _Shard(number, len(videos), hours, tuple(found), json.dumps(footers, sort_keys=True))


def _footer(schema: pa.Schema) -> dict[str, Any]:
    footer = footer_of(schema)
    # The run may differ: rows tell which run made them.
    if "config" in footer:
        footer["config"]["run_id"] = None
    return footer


def _fits(group: Sequence[_Shard], shard: _Shard, max_videos: int, max_hours: float) -> bool:
    if not group:
        return True
    same = shard.folders == group[0].folders and shard.footers == group[0].footers
    n_videos = sum(each.n_videos for each in group) + shard.n_videos
    return same and n_videos <= max_videos and sum(each.hours for each in group) + shard.hours <= max_hours


def _merge(lake: Lake, group: Sequence[_Shard]) -> None:
    number = max(lake.planned_or_committed()) + 1
    sources = [shard.number for shard in group]
    lake.write_bytes(f"{MERGED}/{merged_name(number)}", json.dumps(sources).encode())
    # The part of `videos` is written last: it commits the shard.
    for folder in reversed(group[0].folders):
        patiently(lake.uri, functools.partial(_merge_parts, lake, folder, sources, number))
    _retire(lake, number, sources)


def _merge_parts(lake: Lake, folder: str, sources: Sequence[int], number: int) -> None:
    """Merge several parts into one, sorted by video. Memory holds single row groups, not whole parts."""
    with ExitStack() as stack:
        parts = [_SortedPart(lake, folder, source, stack) for source in sources]
        schema = parts[0].schema.with_metadata({"actionlake": json.dumps(_footer(schema_at(lake, folder, sources[0])))})
        target = stack.enter_context(open_part(lake, folder, number, schema))
        for _, part, start, end in sorted((run for each in parts for run in each.videos()), key=lambda run: run[0]):
            for rows in part.rows(start, end):
                target.write(_renumbered(rows, number) if folder == "videos" else rows)


def _renumbered(videos: pa.Table, number: int) -> pa.Table:
    place = videos.column_names.index("shard")
    return videos.set_column(place, "shard", pa.array([number] * len(videos), videos.schema.field(place).type))


class _SortedPart:
    """A part whose rows are read video by video, in any order of videos."""

    def __init__(self, lake: Lake, folder: str, number: int, stack: ExitStack) -> None:
        source = stack.enter_context(lake.fs.open_input_file(lake.path(folder, part_name(number))))
        self._file = pq.ParquetFile(source, page_checksum_verification=True)
        self.schema: pa.Schema = self._file.schema_arrow
        metadata = self._file.metadata
        self._starts = np.cumsum([0] + [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)])
        self._group = functools.lru_cache(maxsize=1)(self._file.read_row_group)

    def videos(self) -> Iterator[tuple[str, _SortedPart, int, int]]:
        """Yield `(video_id, this part, first row, end of its rows)`."""
        for video_id, rows, start in by_video(self._file.read(columns=["video_id"])):
            yield video_id, self, start, start + len(rows)

    def rows(self, start: int, end: int) -> Iterator[pa.Table]:
        """Yield a range of rows, a row group at a time."""
        first, last = np.searchsorted(self._starts, [start, end - 1], side="right") - 1
        for group in range(first, last + 1):
            offset = int(self._starts[group])
            rows = self._group(group)
            low = max(0, start - offset)
            yield rows.slice(low, min(len(rows), end - offset) - low)


def _retire(lake: Lake, number: int, sources: Sequence[int]) -> None:
    """Delete the shards that a merged shard replaces. Write its plan first: else its videos would be planned anew."""
    if number not in lake.planned():
        plans = [read_part(lake, PLAN, source) for source in sources]
        # Plans of earlier releases have fewer columns.
        merged = pa.concat_tables(plans, promote_options="default")

        def write() -> None:
            with open_part(lake, PLAN, number, merged.schema) as part:
                part.write(merged)

        patiently(lake.uri, write)
    for source in sources:
        lake.drop_shard(source)
        lake.drop_part(PLAN, source)
    _forget(lake, number)


def _forget(lake: Lake, number: int) -> None:
    lake.delete(MERGED, merged_name(number))
