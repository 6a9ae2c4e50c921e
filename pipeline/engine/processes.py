"""Worker processes of this machine. Each handles one request at a time, and may die while it does.

A server forks the workers, and each has a pipe to this process. A worker ends as soon as this process ends, for
whatever reason.
"""

from __future__ import annotations

import logging
import os
import pickle
import sys
import tempfile
import threading
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from multiprocessing import connection
from queue import SimpleQueue
from typing import IO, Any, Literal, NoReturn, cast

from pipeline.engine.fork_server import environment_of_workers, fork_server
from pipeline.engine.watchdog import Note, crash_at_once
from pipeline.engine.worker import words_of
from pipeline.errors import ActionlakeError

log = logging.getLogger(__name__)

# After this many failed starts in a row the pool gives up.
_MOST_FAILED_STARTS = 3
_STDERR_BYTES = 4000


@dataclass(frozen=True)
class Event:
    """The outcome of a request to a worker, or a part of it."""

    kind: Literal["item", "done", "died"]
    """`item`: a part of the answer. `done`: the answer is complete. `died`: the worker died during the request."""
    request: Any
    """The caller's name for it."""
    value: Any = None
    """The item."""


class Pool:
    """Interchangeable workers. They are started on demand, and replaced when they die."""

    def __init__(
        self,
        make: Callable[..., Any],
        arguments: Sequence[Any],
        size: int,
        note: Note = lambda *_: None,
        environments: Sequence[Mapping[str, str]] = ({},),
    ) -> None:
        """Describe the workers; none is started yet.

        Args:
            make: Called in each worker with a `Note`, which reports why the worker is being ended, and the arguments.
                It returns an object whose methods yield the items of their answers.
            arguments: Further arguments of `make`. They must be picklable.
            size: Maximum number of workers.
            note: Called in this process with what a worker reports about its end.
            environments: Environment variables of the workers, used in turn.
        """
        self._start = pickle.dumps(
            (make, tuple(arguments), logging.getLogger("pipeline.engine.worker").getEffectiveLevel())
        )
        self._size = size
        self._note = note
        self._environments = environments
        self._workers: list[_Worker] = []
        self._n_failed_starts = 0

    def start(self, n_workers: int) -> None:
        """Start some workers in advance, at most as many as the pool allows."""
        while len(self._workers) < min(n_workers, self._size):
            environment = self._environments[len(self._workers) % len(self._environments)]
            self._workers.append(_Worker(self._start, environment))

    @property
    def has_room(self) -> bool:
        """Whether the pool can take another request now."""
        return len(self._workers) < self._size or any(not worker.is_busy for worker in self._workers)

    @property
    def n_busy(self) -> int:
        """How many workers are busy."""
        return sum(worker.is_busy for worker in self._workers)

    def ask(self, request: Any, method: str, *arguments: Any) -> None:
        """Ask an idle worker to call a method. Its items arrive as events. The pool must have room."""
        idle = [worker for worker in self._workers if not worker.is_busy]
        if not idle:
            self.start(len(self._workers) + 1)
            idle = self._workers[-1:]
        # A worker that is ready answers sooner than one that is being started.
        max(idle, key=lambda worker: worker.is_ready).ask(request, method, arguments)

    def events(self, wait: bool = True) -> list[Event]:
        """Return the events since the last call. With `wait`, wait for one if any worker is busy.

        Raises:
            ActionlakeError: A worker failed in a way that ends the job.
        """
        found: list[Event] = []
        while self.n_busy and not found:
            by_pipe = {worker.pipe: worker for worker in self._workers}
            for pipe in connection.wait(list(by_pipe), timeout=None if wait else 0):
                found += self._events_of(by_pipe[cast(connection.Connection, pipe)])
            if not wait:
                break
        return found

    def close(self) -> None:
        """End all workers at once."""
        for worker in self._workers:
            worker.kill()
        self._workers.clear()

    def _events_of(self, worker: _Worker) -> Iterator[Event]:
        try:
            kind, value = pickle.loads(worker.pipe.recv_bytes())
        except (EOFError, OSError):
            yield from self._buried(worker)
            return
        if kind == "ready":
            self._n_failed_starts = 0
            worker.is_ready = True
        elif kind == "note":
            self._note(*value)
        elif kind == "log":
            logging.getLogger(value.name).handle(value)
        elif kind == "error":
            raise value
        else:
            request = worker.request
            if kind == "done":
                worker.is_busy, worker.request = False, None
            yield Event(kind, request, value)

    def _buried(self, worker: _Worker) -> Iterator[Event]:
        last_words = worker.kill()
        self._workers.remove(worker)
        log.info("a worker died%s", f": {last_words}" if last_words else "")
        if not worker.is_ready:
            self._n_failed_starts += 1
            if self._n_failed_starts >= _MOST_FAILED_STARTS:
                raise ActionlakeError(f"workers die as soon as they start: {last_words or 'they do not say why'}")
        if worker.is_busy:
            yield Event("died", worker.request)


class Requests:
    """A queue of requests to a pool. A request whose worker died is repeated, a limited number of times."""

    def __init__(self, pool: Pool, most_deaths: int, given_up: Callable[[Any], ActionlakeError]) -> None:
        """Take the pool, the number of deaths at which a request is given up, and the error to raise then."""
        self._pool, self._most_deaths, self._given_up = pool, most_deaths, given_up
        self._waiting: deque[tuple[Any, str, Sequence[Any]]] = deque()
        self._asked: dict[Any, tuple[Any, str, Sequence[Any]]] = {}
        self._deaths: Counter[Any] = Counter()

    @property
    def n_left(self) -> int:
        """How many requests are not answered yet."""
        return len(self._waiting) + self._pool.n_busy

    def add(self, request: Any, method: str, *arguments: Any) -> None:
        """Add a request, as in `Pool.ask`. It is sent as soon as there is room."""
        self._waiting.append((request, method, arguments))
        self._ask()

    def items(self, wait: bool = True) -> list[tuple[Any, Any]]:
        """Return the `(request, item)` pairs since the last call. With `wait`, wait for one if any is to come.

        Raises:
            ActionlakeError: Workers died of a request too often, or one failed in a way that ends the job.
        """
        found: list[tuple[Any, Any]] = []
        while self.n_left:
            for event in self._pool.events(wait):
                if event.kind == "item":
                    found.append((event.request, event.value))
                elif event.kind == "died":
                    self._deaths[event.request] += 1
                    if self._deaths[event.request] >= self._most_deaths:
                        raise self._given_up(event.request)
                    self._waiting.appendleft(self._asked[event.request])
            self._ask()
            if found or not wait:
                break
        return found

    def _ask(self) -> None:
        while self._waiting and self._pool.has_room:
            waiting = self._waiting.popleft()
            request, method, arguments = waiting
            self._asked[request] = waiting
            self._pool.ask(request, method, *arguments)


class _Worker:
    """A worker process, as seen by the process that sends it requests."""

    def __init__(self, start: bytes, environment: Mapping[str, str]) -> None:
        self.pipe, there = connection.Pipe()
        self._server = fork_server()
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (held as long as the process lives)
        with there, tempfile.TemporaryFile() as file:
            # A file, because models are larger than the buffer of a pipe.
            pickle.dump(({**environment_of_workers(), **environment}, os.getcwd()), file)
            file.write(start)
            file.seek(0)
            self._number = self._server.start(file.fileno(), there.fileno(), self._stderr.fileno())
        self.is_ready = self.is_busy = False
        self.request: Any = None

    def ask(self, request: Any, method: str, arguments: Sequence[Any]) -> None:
        self.request, self.is_busy = request, True
        # Sending to a dead worker fails. Its death is noticed when its pipe is read.
        with suppress(BrokenPipeError, ConnectionResetError):
            self.pipe.send_bytes(pickle.dumps((method, arguments)))

    def kill(self) -> str:
        """End the process if it still runs, and return the end of what it wrote to its standard error."""
        self._server.end(self._number)
        self.pipe.close()
        with self._stderr:
            self._stderr.seek(max(0, self._stderr.seek(0, os.SEEK_END) - _STDERR_BYTES))
            return self._stderr.read().decode(errors="replace").strip()


class _Answers:
    """Sends a worker's messages, from any of its threads."""

    def __init__(self, pipe: connection.Connection) -> None:
        self._pipe = pipe
        self._lock = threading.Lock()

    def tell(self, kind: str, value: Any = None) -> None:
        message = pickle.dumps((kind, value))
        with self._lock:
            self._pipe.send_bytes(message)


class _ToAsker(logging.Handler):
    """Sends log records to the process that sends requests."""

    def __init__(self, answers: _Answers) -> None:
        super().__init__()
        self._answers = answers

    def emit(self, record: logging.LogRecord) -> None:
        # As text, since another process may not be able to unpickle arguments and errors.
        record.msg, record.args = record.getMessage(), None
        if record.exc_info:
            record.exc_text, record.exc_info = logging.Formatter().formatException(record.exc_info), None
        with suppress(OSError):
            self._answers.tell("log", record)


def _listen(pipe: connection.Connection, requests: SimpleQueue[tuple[str, Sequence[Any]]]) -> None:
    """Pass on requests. End this process when the process that sends them is gone."""
    try:
        while True:
            requests.put(pickle.loads(pipe.recv_bytes()))
    finally:
        os._exit(0)


class _WithoutPandas:
    """Hides pandas: PyArrow would import it, in half a second, only to ask whether a list is a pandas series."""

    def find_spec(self, name: str, path: object, target: object = None) -> ModuleSpec | None:  # noqa: ARG002
        return ModuleSpec(name, self) if name == "pandas" else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> None:
        raise ModuleNotFoundError("no worker needs pandas", name=spec.name)

    def exec_module(self, module: object) -> None:
        """Do nothing: there is no module."""


def work(start: int, pipe: int, stderr: int) -> NoReturn:
    """Run as a worker, in a process that was forked for this: handle one request after the other.

    Args:
        start: A file with environment variables, the working directory, and what makes the worker, pickled.
        pipe: Where requests come from and answers go to.
        stderr: The file of the standard error.
    """
    try:
        os.dup2(stderr, 2)
        os.close(stderr)
        crash_at_once()
        sys.meta_path.insert(0, _WithoutPandas())
        with os.fdopen(start, "rb") as file:
            _answer(connection.Connection(pipe), file)
    except Exception:
        traceback.print_exc()
    finally:
        # The process must not go on as a copy of the server that it was forked from.
        os._exit(0)


def _answer(pipe: connection.Connection, start: IO[bytes]) -> None:
    answers = _Answers(pipe)
    try:
        environment, folder = pickle.load(start)
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
        make, arguments, level = pickle.load(start)
        requests: SimpleQueue[tuple[str, Sequence[Any]]] = SimpleQueue()
        threading.Thread(target=_listen, args=(pipe, requests), daemon=True).start()
        logging.basicConfig(level=logging.WARNING, handlers=[_ToAsker(answers)])
        logging.getLogger("pipeline").setLevel(level)
        worker = make(lambda *noted: answers.tell("note", noted), *arguments)
        answers.tell("ready")
        while True:
            method, arguments = requests.get()
            for item in getattr(worker, method)(*arguments):
                answers.tell("item", item)
            answers.tell("done")
    except Exception as error:  # It ends the job: errors that affect only a chunk were caught before.
        # A usage error keeps its type, because the command then ends with another exit code.
        answers.tell("error", error if isinstance(error, ActionlakeError) else ActionlakeError(words_of(error)))
