"""Cut clips on a Ray cluster, one task each. Their files are sent to the driver."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from pipeline.errors import UsageError
from pipeline.report.cutting import Cut, CutOptions, CutResult, Cutter
from pipeline.video.clips import part_of

# Tasks submitted per core, so that no core is idle while files are sent.
_PER_CPU = 2
_MAX_RETRIES = 1

Files = dict[str, bytes]


def _cut(options: CutOptions, cut: Cut) -> tuple[CutResult, Files]:
    with tempfile.TemporaryDirectory() as folder:
        result = Cutter(replace(options, folder=folder)).cut(cut)
        return result, {str(p.relative_to(folder)): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}


def cut_on_ray(options: CutOptions, cuts: Iterable[Cut]) -> Iterator[tuple[Cut, CutResult]]:
    """Cut on the cluster that is joined, and yield each cut with its result as soon as it is finished.

    Raises:
        UsageError: The folder can't be written to.
    """
    waiting, running = iter(cuts), dict[Any, Cut]()
    task = ray.remote(num_cpus=1, max_retries=_MAX_RETRIES)(_cut)
    most = _PER_CPU * max(1, int(ray.cluster_resources().get("CPU", 1)))
    while True:
        while len(running) < most and (cut := next(waiting, None)) is not None:
            running[task.remote(options, cut)] = cut
        if not running:
            return
        for done in ray.wait(list(running), num_returns=1)[0]:
            cut = running.pop(done)
            try:
                result, files = ray.get(done)
            except RayError as error:
                if isinstance(cause := getattr(error, "cause", None), UsageError):
                    raise cause from error
                yield cut, CutResult(failure=f"the task that cut it failed ({type(error).__name__})")
                continue
            _write(Path(options.folder), files)
            yield cut, result


def _write(folder: Path, files: Files) -> None:
    for name, content in files.items():
        path = folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            part = part_of(path)
            part.write_bytes(content)
            os.replace(part, path)
        except OSError as error:
            raise UsageError(f"{folder}: can't be written to ({error.strerror or error})") from error
