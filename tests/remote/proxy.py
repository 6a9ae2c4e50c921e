"""A proxy in front of a server on loopback that does to HTTP what networks and busy stores do."""

from __future__ import annotations

import http.client
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any

KINDS = ("busy", "dropped", "cut", "slow")
"""Refused as too much, closed without an answer, closed within it, and answered drop by drop."""
_REFUSALS = {
    "busy": (503, "SlowDown", "Please reduce your request rate."),
    # Not among the kinds: nobody gets over it.
    "denied": (403, "AccessDenied", "Access Denied"),
}
_DROPS = 8


class FaultyProxy:
    """Passes requests on, and does one of the faults, in turns, to every so manyth of them."""

    def __init__(self, upstream: tuple[str, int], every: int = 0, kinds: Sequence[str] = KINDS) -> None:
        self.upstream, self.every, self.kinds = upstream, every, kinds
        self.requests: list[tuple[str, str]] = []
        """Method and path of each."""
        self.happened: Counter[str] = Counter()
        self._lock = Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"proxy": self}))
        self._server.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def next_fault(self, method: str, path: str) -> str:
        """Count a request; return what is to happen to it, if anything."""
        with self._lock:
            self.requests.append((method, path))
            if not self.every or len(self.requests) % self.every:
                return ""
            kind = self.kinds[sum(self.happened.values()) % len(self.kinds)]
            self.happened[kind] += 1
            return kind


@contextmanager
def faulty_proxy(upstream: tuple[str, int], every: int = 0, kinds: Sequence[str] = KINDS) -> Iterator[FaultyProxy]:
    proxy = FaultyProxy(upstream, every, kinds)
    Thread(target=proxy._server.serve_forever, daemon=True).start()
    try:
        yield proxy
    finally:
        proxy._server.shutdown()
        proxy._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: FaultyProxy

    def log_message(self, format: str, *_: Any) -> None:
        """Say nothing."""

    def _pass_on(self) -> None:
        content = self._content()
        fault = self.proxy.next_fault(self.command, self.path)
        if fault in _REFUSALS:
            status, code, words = _REFUSALS[fault]
            body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{words}</Message></Error>".encode()
            self._answer(status, [("Content-Type", "application/xml")], body)
            return
        if fault == "dropped":
            self.close_connection = True
            return
        upstream = http.client.HTTPConnection(*self.proxy.upstream)
        upstream.request(self.command, self.path, content, {**self._headers_on(), "Content-Length": str(len(content))})
        answer = upstream.getresponse()
        body = answer.read()
        upstream.close()
        self._answer(answer.status, answer.getheaders(), body, fault)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass_on  # noqa: N815

    def _content(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _headers_on(self) -> dict[str, str]:
        return {name: value for name, value in self.headers.items() if name.lower() not in _OF_THE_HOP}

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes, fault: str = "") -> None:
        self.send_response(status)
        length = dict(headers).get("Content-Length") if self.command == "HEAD" else None
        for name, value in headers:
            if name.lower() not in _OF_THE_HOP:
                self.send_header(name, value)
        # To HEAD it tells how long the body would be.
        self.send_header("Content-Length", length or str(len(body)))
        self.end_headers()
        if fault == "cut":
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
        elif fault == "slow":
            for start in range(0, len(body), len(body) // _DROPS + 1):
                self.wfile.write(body[start : start + len(body) // _DROPS + 1])
                self.wfile.flush()
                time.sleep(0.05)
        elif self.command != "HEAD":
            self.wfile.write(body)


_OF_THE_HOP = {"transfer-encoding", "content-length", "connection", "keep-alive", "date", "server", "expect"}
