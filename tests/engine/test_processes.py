"""Worker processes: they answer, they die, they never outlive who asked."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.engine.fork_server import fork_server
from pipeline.engine.processes import Event, Pool
from pipeline.engine.watchdog import Note
from pipeline.errors import ActionlakeError, UsageError
from tests.conftest import REPOSITORY


class Calculator:
    """A worker that does as it is told."""

    def __init__(self, note: Note, at_start: str = "") -> None:
        self._note = note
        if at_start:
            os.write(2, at_start.encode())
            os._exit(1)

    def double(self, *numbers: int) -> Iterator[int]:
        yield from (2 * number for number in numbers)

    def surroundings(self, variable: str) -> Iterator[str]:
        yield os.getcwd()
        yield os.environ[variable]

    def fail(self, error: Exception) -> Iterator[None]:
        raise error
        yield

    def die(self, why: str) -> Iterator[int]:
        yield os.getpid()
        self._note(("video", 0), "memory", why)
        os._exit(9)

    def warn(self) -> Iterator[None]:
        try:
            raise KeyError("lost")
        except KeyError:
            logging.getLogger("pipeline.far").warning("heard of %s", {1, 2}, exc_info=True)
        yield


@pytest.fixture
def noted() -> list[Any]:
    return []


@pytest.fixture
def pool(noted: list[Any]) -> Iterator[Pool]:
    pool = Pool(Calculator, (), 2, lambda *told: noted.append(told))
    yield pool
    pool.close()


def events(pool: Pool) -> list[Event]:
    """Return all that happens until nobody is busy."""
    found: list[Event] = []
    while pool.n_busy:
        found += pool.events()
    return found


def test_each_is_asked_for_one_thing_at_a_time(pool: Pool) -> None:
    pool.ask("a", "double", 1, 2)
    pool.ask("b", "double", 3)
    assert not pool.has_room
    found = events(pool)
    assert [(e.kind, e.value) for e in found if e.request == "a"] == [("item", 2), ("item", 4), ("done", None)]
    assert [(e.kind, e.value) for e in found if e.request == "b"] == [("item", 6), ("done", None)]
    assert pool.has_room


def test_one_that_dies_is_told_of_and_another_takes_its_place(pool: Pool, noted: list[Any]) -> None:
    pool.ask("a", "die", "too large")
    item, died = events(pool)
    assert (died.kind, died.request, noted) == ("died", "a", [(("video", 0), "memory", "too large")])
    assert not psutil.pid_exists(item.value)
    pool.ask("b", "double", 4)
    assert [event.value for event in events(pool)] == [8, None]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            ValueError("odd"),
            r"a worker failed, a fault of the program: ValueError: odd \(pipeline/engine/processes\.py:\d+",
        ),
        (UsageError("name another"), "^name another$"),
    ],
)
def test_an_error_ends_the_job_with_words(error: Exception, told: str, pool: Pool) -> None:
    pool.ask("a", "fail", error)
    with pytest.raises(ActionlakeError, match=told):
        events(pool)


def test_workers_that_never_start_end_the_job_with_their_last_words() -> None:
    pool = Pool(Calculator, ("no library of that name",), 1)

    def try_again_and_again() -> None:
        while True:
            pool.ask("a", "double", 1)
            events(pool)

    with pytest.raises(ActionlakeError, match="workers die as soon as they start: no library of that name"):
        try_again_and_again()
    pool.close()


def test_workers_outlive_what_forked_them_and_another_forks_the_next(pool: Pool) -> None:
    pool.ask("a", "double", 1)
    events(pool)
    server = psutil.Process(fork_server().pid)
    server.kill()
    server.wait()
    pool.ask("a", "double", 2)
    pool.ask("b", "die", "of age")
    found = events(pool)
    assert [e.value for e in found if e.request == "a"] == [4, None]
    assert [e.kind for e in found if e.request == "b"] == ["item", "died"]
    assert fork_server().pid != server.pid


def test_a_worker_is_where_its_asker_is(pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though what forks it was started before, elsewhere, and with other variables."""
    fork_server()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ACTIONLAKE_TOLD", "later")
    pool.ask("a", "surroundings", "ACTIONLAKE_TOLD")
    assert [event.value for event in events(pool)] == [str(tmp_path), "later", None]


def test_what_is_read_at_the_start_of_python_makes_another_server(monkeypatch: pytest.MonkeyPatch) -> None:
    before = fork_server().pid
    assert fork_server().pid == before
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert fork_server().pid != before


def test_what_a_worker_logs_is_heard_here(pool: Pool, caplog: pytest.LogCaptureFixture) -> None:
    pool.ask("a", "warn")
    events(pool)
    (record,) = caplog.records
    assert (record.name, record.getMessage()) == ("pipeline.far", "heard of {1, 2}")
    assert "KeyError: 'lost'" in (record.exc_text or "")


def test_they_end_when_who_asks_is_killed() -> None:
    """Killed, a job can tell nobody; its workers see their pipe closed."""
    program = (
        "from tests.engine.test_processes import Calculator, Pool, fork_server, psutil\n"
        "pool = Pool(Calculator, (), 2); pool.start(2); pool.ask('a', 'double', 1); pool.ask('b', 'double', 1)\n"
        "while pool.n_busy: pool.events()\n"
        "server = psutil.Process(fork_server().pid)\n"
        "print(server.pid, *(worker.pid for worker in server.children()), flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=REPOSITORY, text=True
    ) as asker:
        assert asker.stdout is not None
        processes = [psutil.Process(int(pid)) for pid in asker.stdout.readline().split()]
        asker.kill()
        assert len(processes) == 3, "two workers, and what forked them"
        assert psutil.wait_procs(processes, timeout=60)[1] == []
