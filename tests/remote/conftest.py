"""What is elsewhere, on loopback: an S3 server, and a Ray head with its job server."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.synthetic import RECIPES, make_video

BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def object_store() -> Iterator[tuple[str, int]]:
    """Host and port of an S3 server that is real but for its disks, with a bucket `archive`."""
    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in credentials(f"http://{host}:{port}").items():
            patch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket="archive")
        yield host, port
    server.stop()


def credentials(url: str) -> dict[str, str]:
    """Return the environment that leads to a store."""
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": "not-to-be-printed",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


_STARTS_WITHIN_S = 120.0


@dataclass(frozen=True)
class Head:
    url: str
    env: dict[str, str]
    metrics_url: str
    session: Path
    address: str
    """What drivers join."""

    def get(self, path: str, token: str | None) -> int:
        """Return the HTTP status of an answer."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            with urllib.request.urlopen(urllib.request.Request(f"{self.url}{path}", headers=headers)) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    def ask(self, path: str, record: dict[str, str] | None = None) -> Any:
        """Return what the job server says, as JSON."""
        headers = {"Authorization": f"Bearer {self.env['RAY_AUTH_TOKEN']}", "Content-Type": "application/json"}
        content = json.dumps(record).encode() if record is not None else None
        with urllib.request.urlopen(urllib.request.Request(f"{self.url}{path}", content, headers)) as answer:
            return json.load(answer)

    def state(self, job: str) -> str:
        """Return the state of a job."""
        return str(self.ask(f"/api/jobs/{job}")["status"])

    def run_to_its_end(self, entrypoint: str) -> str:
        """Give the job server an entry point, and return the state in which it ends."""
        job = self.ask("/api/jobs/", {"entrypoint": entrypoint})["submission_id"]
        while (state := self.state(job)) in ("PENDING", "RUNNING"):
            time.sleep(0.2)
        return state

    def ray(self, *arguments: str) -> str:
        return subprocess.run(
            [BIN / "ray", *arguments], env=os.environ | self.env, capture_output=True,
            text=True, check=True,
        ).stdout  # fmt: skip


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight videos of five seconds."""
    folder = tmp_path_factory.mktemp("archive")
    make_video(folder / "0.mp4", RECIPES[1], n_frames=150)
    for number in range(1, 8):
        shutil.copy(folder / "0.mp4", folder / f"{number}.mp4")
    return folder


@pytest.fixture(scope="session")
def head(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """A head of two cores on loopback that wants a token; its environment names an archive and a lake."""
    port = free_port()
    token = "0123456789abcdef" * 2
    env = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        "ARCHIVE": str(archive),
        "LAKE": str(tmp_path_factory.mktemp("head") / "lake"),
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "RAY_metrics_report_interval_ms": "500",
        "ACTIONLAKE_LOGS": "json",
    }
    metrics_port, gcs_port = free_port(), free_port()
    # Short: names of sockets are made from it.
    folder = Path(tempfile.mkdtemp(prefix="al", dir="/tmp"))
    ports = [
        # The agent that takes jobs has a usual port, which another Ray on this machine may have taken.
        f"--dashboard-port={port}", f"--dashboard-agent-listen-port={free_port()}",
        f"--metrics-export-port={metrics_port}", f"--port={gcs_port}", f"--ray-client-server-port={free_port()}",
        f"--temp-dir={folder}",
    ]  # fmt: skip
    process = subprocess.Popen(
        [
            BIN / "ray", "start", "--head", "--block", "--num-cpus=2", "--disable-usage-stats",
            "--node-ip-address=127.0.0.1", "--object-store-memory=268435456", *ports,
        ],
        env=os.environ | env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    found = Head(
        f"http://127.0.0.1:{port}", env, f"http://127.0.0.1:{metrics_port}/metrics", folder / "session_latest",
        f"127.0.0.1:{gcs_port}",
    )  # fmt: skip
    try:
        until = time.monotonic() + _STARTS_WITHIN_S
        while True:
            assert process.poll() is None
            assert time.monotonic() < until
            try:
                if found.get("/api/jobs/", token) == 200:
                    break
            except OSError:
                pass
            time.sleep(0.2)
        yield found
    finally:
        # At once: it would wait for half a minute for what still runs there.
        for each in (process, *psutil.Process(process.pid).children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def options(tmp_path: Path) -> Path:
    path = tmp_path / "job.toml"
    path.write_text('scope = "frame"\nsample_fps = 10.0\nchunk_s = 0.5\nshard_videos = 2\ngrace_s = 1.0\n')
    return path
