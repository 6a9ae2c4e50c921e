"""The server of a review. Only this machine can reach it, and only with the token in its address."""

from __future__ import annotations

import hmac
import json
import re
import secrets
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from pipeline.errors import ActionlakeError, UsageError
from pipeline.report.page import render
from pipeline.report.review import Review, StaleError

_HOST = "127.0.0.1"
_KINDS = {".mp4": "video/mp4", ".js": "text/javascript; charset=utf-8"}
_MOST_BYTES = 65_536
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_BLOCK_BYTES = 1 << 18
# The page loads nothing from other sites, and no other site may embed or read it.
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src 'self' data:; media-src 'self'; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


class ReviewServer(ThreadingHTTPServer):
    """Serves one review at `url`."""

    daemon_threads = True

    def __init__(self, review: Review, title: str, port: int = 0) -> None:
        """Open a port of the loopback interface.

        Args:
            review: The review to serve.
            title: Title of the page.
            port: The port. 0: any free port.

        Raises:
            UsageError: The port is taken, or may not be used.
        """
        self.review, self.title, self.token = review, title, secrets.token_urlsafe(18)
        try:
            super().__init__((_HOST, port), _Handler)
        except (OSError, OverflowError) as error:
            cause = getattr(error, "strerror", None) or error
            raise UsageError(f"port {port} can't be had ({cause}); name another by --port, or 0 for any") from error
        number = self.server_address[1]
        self.hosts = {f"{_HOST}:{number}", f"localhost:{number}"}
        self.url = f"http://{_HOST}:{number}/{self.token}/"


class _Handler(BaseHTTPRequestHandler):
    server: ReviewServer
    protocol_version = "HTTP/1.1"
    # An idle connection is closed after so many seconds.
    timeout = 60

    def do_GET(self) -> None:
        path = self._path()
        if path is None:
            return
        if path == "":
            page = render(self.server.review.page(self.server.title))
            self._send(HTTPStatus.OK, page.encode(), "text/html; charset=utf-8")
        elif path.startswith("clips/"):
            try:
                self._send_file(self.server.review.clip(path.removeprefix("clips/")))
            except ActionlakeError as error:
                self._send(HTTPStatus.NOT_FOUND, str(error).encode(), "text/plain; charset=utf-8")
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "no such page")

    def do_POST(self) -> None:
        path = self._path()
        if path is None:
            return
        review = self.server.review
        actions: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
            "state": lambda _: review.state(),
            "answers": review.answer,
            "skip": review.skip,
            "undo": review.undo,
        }
        if path not in actions:
            self._refuse(HTTPStatus.NOT_FOUND, "no such page")
            return
        given = self._given()
        if given is None:
            return
        try:
            told = actions[path](given)
        except ActionlakeError as error:
            now = {"state": review.state()} if isinstance(error, StaleError) else {}
            self._send(HTTPStatus.CONFLICT, json.dumps({"error": str(error), **now}).encode(), "application/json")
            return
        self._send(HTTPStatus.OK, json.dumps(told).encode(), "application/json")

    def _path(self) -> str | None:
        """Return the requested path below the token. None: the request was refused.

        A page of another origin may send its visitor's browser here, under any host name of this machine. So the
        host name, the origin of the request and the token are checked. No such page knows the token.
        """
        origin = self.headers.get("Origin")
        same = origin is None or origin.removeprefix("http://") in self.server.hosts
        fetched = self.headers.get("Sec-Fetch-Site", "none")
        if self.headers.get("Host") not in self.server.hosts or not same or fetched not in ("same-origin", "none"):
            self._refuse(HTTPStatus.FORBIDDEN, "asked from elsewhere")
            return None
        token, slash, path = self.path.removeprefix("/").partition("?")[0].partition("/")
        if not slash and hmac.compare_digest(token.encode(), self.server.token.encode()):
            self._send(HTTPStatus.MOVED_PERMANENTLY, b"", "text/plain; charset=utf-8", {"Location": f"/{token}/"})
            return None
        if not slash or not hmac.compare_digest(token.encode(), self.server.token.encode()):
            self._refuse(HTTPStatus.FORBIDDEN, "the address lacks its token; take the whole one that the command shows")
            return None
        return path

    def _given(self) -> dict[str, Any] | None:
        """Return the JSON object of a request. None: the request was refused."""
        length = self.headers.get("Content-Length", "")
        if self.headers.get_content_type() != "application/json" or not length.isdecimal():
            self._refuse(HTTPStatus.BAD_REQUEST, "JSON is wanted")
            return None
        if int(length) > _MOST_BYTES:
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too long")
            return None
        try:
            given = json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError):
            given = None
        if not isinstance(given, dict):
            self._refuse(HTTPStatus.BAD_REQUEST, "JSON is wanted")
            return None
        return given

    def _send_file(self, path: Path) -> None:
        """Send a file, or the requested range of its bytes. Players request ranges to seek."""
        with open(path, "rb") as file:
            size = file.seek(0, 2)
            wanted = _RANGE.fullmatch(self.headers.get("Range", "").strip())
            first, last = 0, size - 1
            if wanted and (wanted[1] or wanted[2]):
                first = int(wanted[1]) if wanted[1] else max(0, size - int(wanted[2]))
                last = min(size - 1, int(wanted[2])) if wanted[1] and wanted[2] else size - 1
                if first > last:
                    self._send(
                        HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, b"", "", {"Content-Range": f"bytes */{size}"}
                    )
                    return
            partial = {"Content-Range": f"bytes {first}-{last}/{size}"} if wanted else {}
            status = HTTPStatus.PARTIAL_CONTENT if wanted else HTTPStatus.OK
            self._head(status, last - first + 1, _KINDS[path.suffix], {"Accept-Ranges": "bytes", **partial})
            file.seek(first)
            left = last - first + 1
            while left > 0 and (block := file.read(min(_BLOCK_BYTES, left))):
                self.wfile.write(block)
                left -= len(block)

    def _refuse(self, status: HTTPStatus, why: str) -> None:
        # The body of the request was not read, so the connection can't be used again.
        self.close_connection = True
        self._send(status, why.encode(), "text/plain; charset=utf-8", {"Connection": "close"})

    def _send(self, status: HTTPStatus, content: bytes, kind: str, headers: Mapping[str, str] | None = None) -> None:
        self._head(status, len(content), kind, headers or {})
        self.wfile.write(content)

    def _head(self, status: HTTPStatus, length: int, kind: str, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {**_HEADERS, "Content-Type": kind, "Content-Length": str(length), **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def handle(self) -> None:
        """Answer requests until the browser closes the connection, which may happen at any moment."""
        try:
            super().handle()
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: the reviewer looks at the page."""
