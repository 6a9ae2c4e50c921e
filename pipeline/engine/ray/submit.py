"""Run a command as a job of a Ray cluster. Its job server receives this code and the files that the command names."""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ray.exceptions import AuthenticationError

import pipeline
from pipeline.archive.manifest import MANIFEST_SUFFIXES
from pipeline.engine.ray.resources import token_wanted
from pipeline.errors import ActionlakeError, UsageError

COMMANDS = ("analyze", "classify", "forecast", "train")
"""The commands that can be submitted."""
# Options whose value is a file or folder that the job reads. Those on this machine are sent with the job.
_INPUT_OPTIONS = frozenset(["--config", "--model", "--detector", "--forecaster", "--ground", "--map"])
_LARGEST_INPUTS_BYTES = 200 << 20
_LEFT_OUT = ["**/__pycache__"]
# A head node answers before its agent, which starts the jobs, is up. Ray then asks to try again later.
_NOT_READY = "No available agent"
_STARTING_S, _PAUSE_S = 60.0, 1.0


class RemoteJob:
    """A job at a job server."""

    def __init__(self, address: str, submission_id: str) -> None:
        """Name a job.

        Raises:
            ActionlakeError: No job server answers at the address.
            UsageError: Ray is installed without its client for job servers.
        """
        self.address, self.submission_id = address, submission_id
        self._client = _client(address)

    def follow(self, show: Callable[[str], object]) -> int:
        """Pass the output of the job to `show` until it ends. Return its exit code, 0 for success.

        Raises:
            ActionlakeError: It ended without an exit code: it was stopped, or never started.
        """

        async def tail() -> None:
            async for text in self._client.tail_job_logs(self.submission_id):
                show(text)

        asyncio.run(tail())
        details = self._client.get_job_info(self.submission_id)
        if details.status == "SUCCEEDED":
            return 0
        if details.driver_exit_code:
            return int(details.driver_exit_code)
        raise ActionlakeError(f"job {self.submission_id} is {details.status.lower()}: {details.message}")


def submit(address: str, command: Sequence[str], submission_id: str | None = None) -> RemoteJob:
    """Submit a command of `actionlake` to a cluster, and return at once.

    The running code, some megabytes, is sent with the job. So are bundles, weights, options and manifests on this
    machine that the command names. Videos and lakes must be where the cluster can reach them. The image of the nodes
    must contain the rest, such as PyTorch.

    Args:
        address: The job server: `http://HEAD:8265`.
        command: What would follow `actionlake` on the command line.
        submission_id: Name of the job; None: Ray makes one.

    Raises:
        UsageError: The command can't be submitted, or its files are too large to be sent.
        ActionlakeError: No job server answers, or it refuses the job.
    """
    if not command or command[0] not in COMMANDS:
        raise UsageError(
            f"only {', '.join(COMMANDS)} can be submitted: actionlake submit -- analyze SOURCE --lake LAKE"
        )
    client = _client(address)
    with tempfile.TemporaryDirectory() as folder:
        arguments = pack_inputs(command, Path(folder))
        runtime_env: dict[str, Any] = {
            "py_modules": [str(Path(pipeline.__file__).parent)],
            "working_dir": folder,
            "excludes": _LEFT_OUT,
        }
        give_up_at = time.monotonic() + _STARTING_S
        while True:
            try:
                given = client.submit_job(
                    entrypoint=shlex.join(["python", "-m", "pipeline.cli", *arguments]),
                    runtime_env=runtime_env,
                    submission_id=submission_id,
                )
                return RemoteJob(address, given)
            except RuntimeError as error:
                if _NOT_READY not in str(error) or time.monotonic() > give_up_at:
                    raise ActionlakeError(f"{address} refuses the job: {_first_line(error)}") from error
                time.sleep(_PAUSE_S)


def pack_inputs(command: Sequence[str], folder: Path) -> list[str]:
    """Copy the files of this machine that a command reads into a folder. Return the command with the new paths.

    Raises:
        UsageError: The files are too large to be sent.
    """
    arguments: list[str] = []
    n_bytes = 0
    for before, argument in zip(["", *command], command, strict=False):
        option, is_joined, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
        reads = (option if is_joined else before) in _INPUT_OPTIONS
        path = Path(value)
        if not ((reads and path.exists()) or _is_manifest(before, path)):
            arguments.append(argument)
            continue
        n_bytes += _size_bytes(path)
        if n_bytes > _LARGEST_INPUTS_BYTES:
            raise UsageError(f"{value}: too large to travel with a job; put it where all nodes can read it")
        # In numbered folders, because names may be the same.
        target = folder / "inputs" / str(len(arguments)) / path.resolve().name
        target.parent.mkdir(parents=True)
        if path.is_dir():
            shutil.copytree(path, target)
        else:
            shutil.copy(path, target)
        arguments.append(f"{option}{is_joined}{target.relative_to(folder)}")
    return arguments


def _is_manifest(before: str, path: Path) -> bool:
    return not before.startswith("-") and path.suffix.lower() in MANIFEST_SUFFIXES and path.is_file()


def _size_bytes(path: Path) -> int:
    files = [Path(at) / name for at, _, names in os.walk(path) for name in names] if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)


def _client(address: str) -> Any:
    try:
        from ray.job_submission import JobSubmissionClient

        return JobSubmissionClient(address)
    except ConnectionError as error:
        raise ActionlakeError(
            f"no job server answers at {address} ({_first_line(error)}); it is the dashboard of the head node, usually "
            "http://HEAD:8265"
        ) from error
    except AuthenticationError as error:
        raise token_wanted(address) from error
    except (ImportError, RuntimeError) as error:
        if "ray[default]" in str(error) or isinstance(error, ImportError):
            raise UsageError("to submit jobs, Ray must be complete: pip install 'actionlake[cluster]'") from error
        raise ActionlakeError(f"{address}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
