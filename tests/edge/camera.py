"""A camera on loopback: an RTSP server that sends H.264 through the connection that asked for it (RFC 2326, 10.12)."""

from __future__ import annotations

import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import av

_RTP_CHANNEL = 0
_DESCRIPTION = (
    "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=camera\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\n"
    "a=rtpmap:96 H264/90000\r\na=fmtp:96 packetization-mode=1\r\na=control:video\r\n"
)


class _Camera(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, video: Path, rate: int) -> None:
        super().__init__(("127.0.0.1", 0), _Viewer)
        self.video, self.rate = video, rate


class _Viewer(socketserver.StreamRequestHandler):
    """One connection: it is told what there is, and then shown it."""

    server: _Camera

    def handle(self) -> None:
        while method := self.rfile.readline().decode().partition(" ")[0].strip():
            headers = dict(self._headers())
            number = headers.get("cseq", "0")
            if method == "OPTIONS":
                self._reply(number, "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN")
            elif method == "DESCRIBE":
                self._reply(number, "Content-Type: application/sdp", body=_DESCRIPTION)
            elif method == "SETUP":
                self._reply(number, f"Transport: {headers['transport']}", "Session: 1")
            elif method == "PLAY":
                self._reply(number, "Session: 1")
                with suppress(BrokenPipeError, ConnectionResetError):
                    self._play()
                return
            else:
                self._reply(number)

    def _headers(self) -> Iterator[tuple[str, str]]:
        while line := self.rfile.readline().decode().strip():
            name, _, value = line.partition(":")
            yield name.lower(), value.strip()

    def _reply(self, number: str, *headers: str, body: str = "") -> None:
        lines = ["RTSP/1.0 200 OK", f"CSeq: {number}", *headers, f"Content-Length: {len(body)}", "", body]
        self.wfile.write("\r\n".join(lines).encode())

    def _play(self) -> None:
        """Send the video at its own pace, as FFmpeg packs it into RTP."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as packed:
            packed.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
            packed.bind(("127.0.0.1", 0))
            packed.setblocking(False)
            began_s = time.monotonic()
            with (
                av.open(str(self.server.video)) as source,
                av.open(f"rtp://127.0.0.1:{packed.getsockname()[1]}", "w", format="rtp") as target,
            ):
                stream = target.add_stream("libx264", self.server.rate, {"preset": "ultrafast", "tune": "zerolatency"})
                (shown,) = source.streams.video
                stream.width, stream.height, stream.pix_fmt = shown.width, shown.height, "yuv420p"
                for number, frame in enumerate(source.decode(shown)):
                    frame.pts, frame.pict_type = number, av.video.frame.PictureType.NONE
                    target.mux(stream.encode(frame))
                    self._pass_on(packed)
                    time.sleep(max(0.0, began_s + number / self.server.rate - time.monotonic()))

    def _pass_on(self, packed: socket.socket) -> None:
        with suppress(BlockingIOError):
            while True:
                packet = packed.recv(1 << 16)
                self.wfile.write(b"$" + bytes([_RTP_CHANNEL]) + len(packet).to_bytes(2, "big") + packet)


@contextmanager
def filming(video: Path, rate: int) -> Iterator[str]:
    """Show a video, so many frames a second, to whoever opens the address that the block is given."""
    with _Camera(video, rate) as camera:
        threading.Thread(target=camera.serve_forever, daemon=True).start()
        yield f"rtsp://127.0.0.1:{camera.server_address[1]}/stream"
        camera.shutdown()
