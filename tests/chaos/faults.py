"""Faults, put into the processes of a job: at the k-th call of a function, wherever that is, something happens.

Ray calls `install` in every worker process that it starts, and `site/sitecustomize.py` does in those of the local
engine. What shall happen is read from a folder at each call, so one Ray serves many jobs with different faults; calls
are counted there, too, over all processes.
"""

from __future__ import annotations

import ctypes
import fcntl
import functools
import importlib.machinery
import inspect
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FOLDER = "ACTIONLAKE_CHAOS"
"""Environment variable that names the folder."""

RUNTIME_ENV = {"worker_process_setup_hook": "tests.chaos.faults.install"}
"""What Ray has to be started with."""

PYTHONPATH = os.pathsep.join([str(Path(__file__).parent / "site"), str(Path(__file__).parents[2])])
"""What a job has to be started with: the repository, and what installs the faults in local workers."""

POINTS = {
    "probe": "pipeline.engine.worker:probe_patiently",
    "decode": "pipeline.steps.decode:decode_chunk",
    "extract": "pipeline.steps.extract:Extractor.extract",
    "detect": "pipeline.vision.detector:Detector.look",
    "embed": "pipeline.vision.embedder:Embedder.embed",
    "flow": "pipeline.vision.views:describe_flow",
    "write": "pipeline.steps.extract:write_piece",
    "rename": "pipeline.lake.store:os.replace",
    "commit": "pipeline.steps.commit:ShardCommitter.commit",
    "commit video": "pipeline.steps.commit:ShardCommitter._commit_video",
    "track": "pipeline.lake.sequences:VideoRows.frames_of_boxes",
    "label": "pipeline.steps.label:Labeller.label",
    "ledger": "pipeline.engine.ledger:Ledger.begin",
}
"""Where something can happen: functions, by module and name, called in workers."""


@dataclass(frozen=True)
class Fault:
    """What happens where."""

    point: str
    """One of `POINTS`."""
    do: str = "kill"
    """One of `ACTIONS`."""
    calls: Sequence[int] = (1,)
    """Before which calls, counted from 1 over all processes of the job; empty: before every one."""
    match: str = ""
    """Count only calls whose arguments have this in their text."""
    after: bool = False
    """After the call instead."""


def set_faults(folder: Path, faults: Sequence[Fault], keep: Sequence[str] = ()) -> None:
    """Say what is to happen from now on, and forget what was counted, but for files to be kept."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.name not in keep:
            path.unlink()
    (folder / "faults.json.new").write_text(json.dumps([asdict(fault) for fault in faults]))
    (folder / "faults.json.new").rename(folder / "faults.json")


def note_happened(what: str) -> None:
    """Note a fault that comes from elsewhere."""
    _note(Path(os.environ[FOLDER]) / "happened", what)


def times_happened(folder: Path) -> int:
    """Return how many faults have happened."""
    return sum(1 for line in _lines(folder / "happened"))


def chunks_decoded(folder: Path) -> list[str]:
    """Return the chunks that were begun to be decoded, one for each time."""
    return _lines(folder / "decoded")


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def _note(path: Path, line: str) -> None:
    # One write of few bytes to a file that is only appended to: whole, whoever else writes.
    with open(path, "a") as file:
        file.write(f"{line}\n")


def _count(path: Path) -> int:
    with open(path, "a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        number = int(file.read() or 0) + 1
        file.truncate(0)
        file.write(str(number))
        return number


def _eat_memory() -> None:
    # In C, and without holding the interpreter, as a decoder does.
    c = ctypes.CDLL(None)
    c.malloc.restype = ctypes.c_void_p
    while True:
        c.memset(ctypes.c_void_p(c.malloc(ctypes.c_size_t(32 << 20))), 1, ctypes.c_size_t(32 << 20))


def _raise(error: Exception) -> Callable[[], None]:
    def act() -> None:
        raise error

    return act


def _hold_interpreter() -> None:
    ctypes.PyDLL(None).pause()


def _spin() -> None:
    # Some kernels let two that never yield starve all else on two cores, the watchdog's thread with it.
    while True:
        os.sched_yield()


ACTIONS: dict[str, Callable[[], Any]] = {
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "segfault": lambda: ctypes.string_at(0),
    "hang": lambda: time.sleep(1e6),
    "hang and hold the interpreter": _hold_interpreter,
    "spin": _spin,
    "eat memory": _eat_memory,
    "fail": _raise(OSError(5, "Input/output error")),
    "no space": _raise(OSError(28, "No space left on device")),
    "raise": _raise(KeyError("an injected fault")),
}


def install() -> None:
    """Wrap the points of a module as soon as this process imports it; most workers need few of them."""
    sys.meta_path.insert(0, _Finder())
    from tests.chaos import storage

    storage.register()


class _Finder:
    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        points = [point for point, function in POINTS.items() if function.startswith(f"{name}:")]
        if not points and name != "pipeline.engine.watchdog":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        assert spec is not None
        assert spec.loader is not None
        load = spec.loader.exec_module

        def load_and_wrap(module: Any) -> None:
            load(module)
            for point in points:
                _wrap(module, point)
            if name == "pipeline.engine.watchdog":
                module._LAST_RESORT_S = 2.0

        spec.loader.exec_module = load_and_wrap  # type: ignore[method-assign]
        return spec


def _wrap(module: Any, point: str) -> None:
    *owners, attribute = POINTS[point].partition(":")[2].split(".")
    owner = functools.reduce(getattr, owners, module)
    if owner is os:
        # Not for the whole process: the module gets an `os` of its own, with one function replaced.
        owner = module.os = _Copy(os)
    setattr(owner, attribute, _wrapped(point, getattr(owner, attribute)))


class _Copy:
    def __init__(self, module: Any) -> None:
        self.__dict__.update(vars(module))


def _wrapped(point: str, function: Callable[..., Any]) -> Callable[..., Any]:
    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def generate(*arguments: Any, **named: Any) -> Iterator[Any]:
            if point == "decode":
                _note(Path(os.environ[FOLDER]) / "decoded", f"{arguments[0]} {arguments[2].index}")
            _happen(point, arguments, after=False)
            yield from function(*arguments, **named)
            _happen(point, arguments, after=True)

        return generate

    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        _happen(point, arguments, after=False)
        result = function(*arguments, **named)
        _happen(point, arguments, after=True)
        return result

    return call


def _happen(point: str, arguments: tuple[Any, ...], after: bool) -> None:
    # Now, and not when the function was wrapped: one process forks the workers of jobs with different folders.
    folder = Path(os.environ[FOLDER])
    path = folder / "faults.json"
    faults = [Fault(**fault) for fault in json.loads(path.read_text())] if path.exists() else []
    for number, fault in enumerate(faults):
        if fault.point != point or fault.after != after or fault.match not in repr(arguments):
            continue
        if not fault.calls or _count(folder / f"calls-{number}") in fault.calls:
            note_happened(f"{point} {fault.do}")
            ACTIONS[fault.do]()
