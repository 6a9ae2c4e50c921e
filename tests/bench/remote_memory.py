"""Measure the peak memory of workers that read a small and a large video from an object store.

    python -m tests.bench.remote_memory FOOTAGE/h264-720p-10min.mp4 --times 34     # as one file of 3 GB

The store is a server on loopback with the part of S3 that reading single objects needs: HEAD, and GET of ranges.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from tests.bench.footage import repeated
from tests.bench.memory import peak_bytes
from tests.remote.conftest import credentials

OPTIONS = ["--scope", "frame", "--sample-fps", "0.2", "--model", "none"]


@contextmanager
def store(folder: Path) -> Iterator[str]:
    """Serve the files of a folder as objects of whatever bucket, and yield the address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *_: object) -> None:
            """Say nothing."""

        def do_GET(self) -> None:
            """Answer with a file, or a range of it."""
            path = folder / self.path.split("?")[0].rsplit("/", 1)[-1]
            if not path.is_file():
                self.send_response(404)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            size = path.stat().st_size
            wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            first, last = (int(wanted[1]), min(int(wanted[2]), size - 1)) if wanted else (0, size - 1)
            self.send_response(206 if wanted else 200)
            self.send_header("Content-Length", str(last + 1 - first))
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
            self.send_header("Last-Modified", self.date_time_string(int(path.stat().st_mtime)))
            self.send_header("ETag", f'"{size}"')
            self.end_headers()
            if self.command == "GET":
                with open(path, "rb") as file:
                    file.seek(first)
                    self.wfile.write(file.read(last + 1 - first))

        do_HEAD = do_GET  # noqa: N815

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", type=Path)
    parser.add_argument("--times", type=int, default=34)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "small.mp4").symlink_to(arguments.video.resolve())
        repeated(arguments.video, arguments.times, folder / "large.mp4")
        (folder / "fast.toml").write_text('[features]\nsampling = "fast"\n')
        with store(folder) as url:
            os.environ.update(credentials(url))
            for video in ("small.mp4", "large.mp4"):
                peak, parts = peak_bytes(f"s3://bucket/{video}", [*OPTIONS, "--config", str(folder / "fast.toml")])
                mib = {process: n_bytes >> 20 for process, n_bytes in parts.items()}
                size_mib = (folder / video).stat().st_size >> 20
                print(f"{size_mib} MiB: peak {peak >> 20} MiB  {json.dumps(mib)}", flush=True)


if __name__ == "__main__":
    main()
