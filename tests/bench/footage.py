"""Make the videos of the benchmarks from real footage: a street, at the usual sizes and frame rates of cameras.

    python -m tests.bench.footage ../shared/data FOLDER

The 75 s of the street are blended to 30 frames/s, get the noise of a sensor, and are encoded once, with B-frames and a
keyframe every 250 frames. Then they are repeated to the wanted length without encoding again.
"""

from __future__ import annotations

import argparse
from fractions import Fraction
from pathlib import Path

import av
from av.filter import Graph
from av.video.frame import PictureType

FPS = 30
SECONDS = 75
"""Length of what is repeated."""
KINDS = {
    "h264-720p": ("libx264", 1280, 720),
    "h264-1080p": ("libx264", 1920, 1080),
    "hevc-720p": ("libx265", 1280, 720),
}
"""Codec, width and height by name."""
_CODEC_OPTIONS = {
    "libx264": {"preset": "fast", "crf": "23", "g": "250", "bf": "3"},
    "libx265": {"preset": "superfast", "crf": "26", "x265-params": "keyint=250:bframes=3:log-level=error"},
}


def make_video(kind: str, street: Path, minutes: float, folder: Path) -> Path:
    """Return the path of a video of a kind and length, made now if it is not there."""
    target = folder / f"{kind}-{minutes:g}min.mp4"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        once = folder / f"{kind}.mp4"
        if not once.exists():
            _encode(kind, street, once)
        scratch = target.with_suffix(".part.mp4")
        repeated(once, round(minutes * 60 / SECONDS), scratch).rename(target)
    return target


def _encode(kind: str, street: Path, target: Path) -> None:
    codec, width, height = KINDS[kind]
    scratch = target.with_suffix(".part.mp4")
    with av.open(str(street)) as source, av.open(str(scratch), "w") as sink:
        stream = source.streams.video[0]
        stream.thread_type = "AUTO"
        graph = Graph()
        steps = [
            graph.add_buffer(template=stream),
            graph.add("crop", "768:432:0:100"),
            graph.add("framerate", f"fps={FPS}:interp_start=0:interp_end=255:scene=100"),
            graph.add("scale", f"{width}:{height}:flags=bicubic"),
            graph.add("noise", "alls=4:allf=t"),
            graph.add("format", "yuv420p"),
            graph.add("buffersink"),
        ]
        graph.link_nodes(*steps).configure()
        out = sink.add_stream(codec, rate=FPS, options=_CODEC_OPTIONS[codec])
        out.width, out.height, out.pix_fmt = width, height, "yuv420p"
        n_frames = 0
        for frame in source.decode(stream):
            graph.push(frame)
            while n_frames < SECONDS * FPS:
                try:
                    made = graph.pull()
                except (BlockingIOError, EOFError):
                    break
                # What it was in the source would bind the encoder.
                made.pict_type = PictureType.NONE
                made.pts, made.time_base = n_frames, Fraction(1, FPS)
                sink.mux(out.encode(made))
                n_frames += 1
        sink.mux(out.encode(None))
    assert n_frames == SECONDS * FPS, n_frames
    scratch.rename(target)


def repeated(video: Path, times: int, target: Path) -> Path:
    """Write a video many times after itself, without encoding it anew."""
    with av.open(str(target), "w") as sink:
        out = None
        shift = 0
        for _ in range(times):
            end = 0
            with av.open(str(video)) as source:
                stream = source.streams.video[0]
                out = out or sink.add_stream_from_template(stream)
                for packet in source.demux(stream):
                    if packet.dts is None or packet.pts is None:
                        continue
                    end = max(end, packet.pts + (packet.duration or 0))
                    packet.pts += shift
                    packet.dts += shift
                    packet.stream = out
                    sink.mux(packet)
            shift += end
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=10.0)
    options = parser.parse_args()
    for kind in KINDS:
        print(make_video(kind, options.data / "street" / "vtest.avi", options.minutes, options.folder))


if __name__ == "__main__":
    main()
