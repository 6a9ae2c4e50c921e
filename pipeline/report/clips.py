"""Write segments as clips with a table of them, and whole videos with boxes, poses and labels drawn in."""

from __future__ import annotations

import csv
import itertools
import os
import posixpath
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline.archive import filesystem
from pipeline.errors import Interrupted, UsageError
from pipeline.lake.query import LakeReader, open_lake
from pipeline.report.cutting import Cut, CutOptions, CutResult, Run, Written, drawn_over, unfinished
from pipeline.report.footage import Footage
from pipeline.report.scene import read_scene
from pipeline.video.clips import Clip, drop_parts, part_of, write_clip

_COLUMNS = (
    "file", "video", "label", "start_s", "end_s", "score", "track_id", "segment_id", "model",
    "clip_start_s", "clip_end_s",
)  # fmt: skip
_TABLE = "clips.csv"
_VIDEO_PX = 1280
_CLIP_PX = 1280
_NAME_BYTES = 80


def write_clips(
    lake: str,
    out: str | Path,
    run: Run,
    where: str | None = None,
    model: str | None = None,
    margin_s: float = 1.0,
    draw: bool = False,
    videos_root: str | None = None,
) -> Written:
    """Write each segment as a clip, and `clips.csv`, which describes each clip.

    Args:
        lake: The lake.
        out: A folder, made if it is not there.
        run: Cuts the clips.
        where: A condition in SQL on the columns of `segments`. None: all of them.
        model: The model whose segments are written. None: the only model.
        margin_s: Seconds before and after a segment.
        draw: Draw boxes, ids, poses and labels into the frames.
        videos_root: Where the videos are now, if they were moved.

    Raises:
        UsageError: There is no lake or no such model, no segment meets the condition, or the folder can't be written.
    """
    if margin_s < 0:
        raise UsageError(f"margin = {margin_s:g}: seconds before and after a segment are not below 0")
    reader = open_lake(lake)
    rows = reader.segments(where, model).to_pylist()
    if not rows:
        raise UsageError(f"{lake}: no segment {'meets --where' if where else 'in it'}; there is nothing to cut")
    sizes = dict(zip(*(reader.table("videos")[name].to_pylist() for name in ("video_id", "size_bytes")), strict=True))
    names = _names(rows)
    cuts = {
        name: Cut(
            name, row["video_id"], row["uri"], sizes[row["video_id"]],
            max(0.0, row["start_s"] - margin_s), row["end_s"] + margin_s,
        )
        for name, row in zip(names, rows, strict=True)
    }  # fmt: skip
    options = CutOptions(
        reader.store.uri, str(out), videos_root, rows[0]["model"], draw, for_page=False, longest_px=_CLIP_PX
    )
    folder, results = Path(out), dict[str, CutResult]()
    table = folder / _TABLE
    try:
        # The table says that all clips are there, so it is written last.
        table.unlink(missing_ok=True)
        for cut, result in run(options, cuts.values()):
            results[cut.name] = result
        done = [(name, row, results[name]) for name, row in zip(names, rows, strict=True) if not results[name].failure]
        _write_table(table, (_described(name, row, result) for name, row, result in done))
    except OSError as error:
        raise UsageError(f"{out}: can't be written to ({error.strerror or error})") from error
    except Interrupted as error:
        n_clips = sum(not result.failure for result in results.values())
        error.left = unfinished(folder, n_clips, _TABLE)
        raise
    finally:
        drop_parts([table, *(folder / f"{name}.mp4" for name in names)])
    failures = {
        row["segment_id"]: results[name].failure for name, row in zip(names, rows, strict=True) if results[name].failure
    }
    return Written(table, len(rows), len(done), sum(result.n_bytes for _, _, result in done), failures)


def _write_table(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = part_of(path)
    with open(part, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, _COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    os.replace(part, path)


def write_video(
    lake: LakeReader, video: str, out: str | Path, model: str | None = None, videos_root: str | None = None,
    longest_px: int = _VIDEO_PX,
) -> Clip:  # fmt: skip
    """Write a whole video with boxes, ids, poses and labels drawn in, as MP4.

    Args:
        lake: The lake with the boxes and labels.
        video: Part of the URI of the wanted video.
        out: The file, `.mp4`.
        model: The model whose labels are drawn. None: of all models, the label with the highest score.
        videos_root: Where the videos are now, if they were moved.
        longest_px: Longest side of the frames in pixels. Frames are never enlarged.

    Raises:
        UsageError: There is no such video, or several, or the file can't be written.
        VideoError: The video can't be read any more.
    """
    target = Path(out)
    if target.suffix.lower() != ".mp4":
        raise UsageError(f"{target}: an annotated video is written as MP4; name it .mp4")
    row = lake.video(video)
    uri, probe = Footage(videos_root).find(row["uri"], row["size_bytes"])
    if filesystem.is_local(uri) and target.exists() and target.samefile(filesystem.local_path(uri)):
        raise UsageError(f"{target}: is the video itself; name another file")
    scene = read_scene(lake, row["video_id"], model=lake.model(model) if model is not None else None)
    draw = drawn_over(scene, probe.width)
    try:
        return write_clip(uri, probe, 0.0, float("inf"), target, longest_px, draw)
    except OSError as error:
        raise UsageError(f"{target}: can't be written ({error.strerror or error})") from error
    except Interrupted as error:
        error.left = f"{target} is not written; the same command starts again"
        raise


def _described(name: str, row: dict[str, Any], result: CutResult) -> dict[str, Any]:
    clip = {"file": f"{name}.mp4", "video": row["uri"], "clip_start_s": result.start_s, "clip_end_s": result.end_s}
    cells = clip | {column: row[column] for column in _COLUMNS if column in row}
    return {key: round(value, 3) if isinstance(value, float) else value for key, value in cells.items()}


def _names(rows: list[dict[str, Any]]) -> list[str]:
    """Return a name for each segment. Names sort by video and time, and are valid on every file system."""
    taken: set[str] = set()
    names = []
    for row in rows:
        stem = posixpath.splitext(posixpath.basename(row["uri"]))[0]
        person = "" if row["track_id"] is None else f"_person{row['track_id']}"
        name = f"{_plain(stem)}_{row['start_s']:08.2f}_{_plain(row['label'])}{person}"
        tries = (name if n == 1 else f"{name}_{n}" for n in itertools.count(1))
        # Some file systems ignore case.
        names.append(next(each for each in tries if each.casefold() not in taken))
        taken.add(names[-1].casefold())
    return names


def _plain(text: str) -> str:
    """Return a text as a part of a file name: letters, digits, `_`, `.` and `-`, cut to `_NAME_BYTES` bytes."""
    plain = re.sub(r"[^\w.-]+", "-", text).strip("-.").encode()[:_NAME_BYTES]
    return plain.decode(errors="ignore") or "video"
