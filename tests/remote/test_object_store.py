"""Archives and lakes in an object store: the rows of a local run, whatever the network does on the way."""

from __future__ import annotations

import io
import random
import shutil
from pathlib import Path
from typing import Any

import boto3
import pytest

from pipeline import Config, analyze, open_lake
from pipeline.archive import filesystem, ranges
from pipeline.archive.container import open_video
from pipeline.archive.filesystem import open_ranges, resolve
from pipeline.errors import ActionlakeError, UsageError, VideoError
from pipeline.lake import patience
from pipeline.lake.store import Lake
from tests.lakes import TABLES
from tests.remote.conftest import credentials
from tests.remote.proxy import KINDS, FaultyProxy, faulty_proxy
from tests.test_cli import FAST, run, text

NAMES = ("h264-bframes.mp4", "mpeg4.avi", "h264.ts")
# What depends on where and when: ids are made from places and times of change.
_ELSEWHERE = {"camera", "video_id", "segment_id", "run_id", "processed_at", "worker", "attempts"}


@pytest.fixture(scope="module")
def local(numbered: Path, object_store: tuple[str, int], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake of the same videos on the local disk."""
    folder = tmp_path_factory.mktemp("local")
    (folder / "videos").mkdir()
    for name in NAMES:
        shutil.copy(numbered / name, folder / "videos")
        boto3.client("s3").upload_file(str(numbered / name), "archive", f"in/{name}")
    config = Config(scope="frame", sample_fps=5.0, workers=1)
    analyze(str(folder / "videos"), str(folder / "lake"), config=config, engine="local")
    return folder / "lake"


def rows_by_name(lake: str) -> dict[str, list[Any]]:
    found = {}
    for table in TABLES:
        rows = [
            {name: value for name, value in row.items() if name not in _ELSEWHERE}
            | ({"uri": row["uri"].rpartition("/")[2]} if "uri" in row else {})
            for row in open_lake(lake).table(table).to_pylist()
        ]
        found[table] = sorted(rows, key=repr)
    return found


@pytest.mark.e2e
def test_the_rows_are_those_of_a_local_run_though_one_in_five_requests_fails(
    local: Path, object_store: tuple[str, int]
) -> None:
    """And the same command again finds all of it done."""
    lake = "s3://archive/lake"
    with faulty_proxy(object_store, every=5) as proxy:
        env = credentials(proxy.url)
        done = run("analyze", "s3://archive/in", "--lake", lake, *FAST, env=env)
        assert done.returncode == 0, done.stderr
        assert sum(proxy.happened.values()) == len(proxy.requests) // 5
        assert min(proxy.happened[kind] for kind in KINDS) >= 5
        again = run("analyze", "s3://archive/in", "--lake", lake, *FAST, env=env)
        assert "0 chunks decoded" in text(again.stdout)
        seen = run("status", "--lake", lake, env=env)
        assert "3/3 videos" in text(seen.stdout)
        assert text(seen.stdout).endswith("done")
    assert rows_by_name(lake) == rows_by_name(str(local))
    for stream in (done.stdout, done.stderr, again.stdout, again.stderr):
        assert b"not-to-be-printed" not in stream


def test_what_is_not_there_is_told(object_store: tuple[str, int], tmp_path: Path) -> None:
    done = run("analyze", "s3://archive/nowhere", "--lake", tmp_path / "lake")
    assert done.returncode == 2
    assert "s3://archive/nowhere: no such file or folder" in text(done.stderr)


def test_a_video_that_is_not_there_is_missing(object_store: tuple[str, int]) -> None:
    with (
        pytest.raises(VideoError, match=r"^s3://archive/nothing\.mp4: no such file$") as raised,
        open_video("s3://archive/nothing.mp4"),
    ):
        pass
    assert raised.value.kind == "missing"


def test_a_password_in_a_uri_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="written to tables and logs") as raised:
        open_ranges("s3://somebody:secret@archive/in/a.mp4")
    assert "secret@" not in str(raised.value)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "_BLOCK_BYTES", 1000)
    monkeypatch.setattr(ranges, "_CACHE_BYTES", 4000)
    monkeypatch.setattr(filesystem, "_CACHE", ranges.BlockCache())
    monkeypatch.setattr(ranges, "_PAUSES_S", (0.0, 0.0, 0.0))


def put(name: str, content: bytes) -> str:
    boto3.client("s3").put_object(Bucket="archive", Key=name, Body=content)
    return f"s3://archive/{name}"


def block_requests(proxy: FaultyProxy, name: str) -> int:
    return sum(method == "GET" and path.endswith(name) for method, path in proxy.requests)


@pytest.mark.parametrize("every", [0, 5])
def test_ranges_are_those_of_the_file(
    object_store: tuple[str, int], small_blocks: None, monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    content = random.Random(0).randbytes(25_500)
    uri = put("random", content)
    with faulty_proxy(object_store, every) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        chooser = random.Random(1)
        with open_ranges(uri) as reader:
            assert reader.seek(-1, io.SEEK_END) == len(content) - 1
            assert reader.read() == content[-1:]
            assert reader.read(1) == b""
            for _ in range(15):
                start, length = chooser.randrange(26_000), chooser.randrange(3000)
                reader.seek(start)
                found = b"".join(iter(lambda: reader.read(length - reader.tell() + start), b""))  # noqa: B023
                assert found == content[start : start + length]
        assert sum(proxy.happened.values()) >= (5 if every else 0)


def test_files_smaller_than_a_refusal_are_asked_for_again(
    object_store: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client of S3 takes a refusal that is longer than what it asked for to be an error of its own."""
    uri = put("small", b"small")
    with faulty_proxy(object_store, every=4, kinds=("busy",)) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        fs, path = resolve(uri)
        for _ in range(5):
            with fs.open_input_stream(path) as stream:
                assert stream.read() == b"small"
        assert proxy.happened["busy"] >= 3


def test_what_may_not_be_written_is_not_tried_again(
    object_store: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "_PAUSES_S", (0.0, 0.0, 0.0))
    with faulty_proxy(object_store, every=1, kinds=("denied",)) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        with pytest.raises(ActionlakeError, match=r"^s3://archive/read-only: can't be written to \(.*Access Denied"):
            Lake("s3://archive/read-only").write_bytes("_search/basis.npz", b"content")
        assert [method for method, _ in proxy.requests] == ["PUT"]


def test_what_was_read_is_kept_within_bounds(
    object_store: tuple[str, int], small_blocks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four blocks: what opens a file is fetched once for all that open it, as long as not much else is read."""
    content = random.Random(0).randbytes(10_000)
    uri = put("kept", content)
    with faulty_proxy(object_store) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        for _ in range(3):
            with open_ranges(uri) as reader:
                assert reader.read(1000) == content[:1000]
                reader.seek(9000)
                assert reader.read(1000) == content[9000:]
        assert block_requests(proxy, "kept") == 2
        with open_ranges(uri) as reader:
            assert reader.readall() == content
            assert filesystem._CACHE._n_bytes == sum(map(len, filesystem._CACHE._blocks.values())) == 4000
            n_before = block_requests(proxy, "kept")
            reader.seek(0)
            reader.read(1000)
            assert block_requests(proxy, "kept") == n_before + 1
        put("kept", content[::-1] + b"more")
        with open_ranges(uri) as reader:
            assert reader.read(1000) == content[::-1][:1000]


def test_a_file_that_shrinks_while_it_is_read_is_an_error(object_store: tuple[str, int], small_blocks: None) -> None:
    uri = put("shrinking", bytes(5000))
    with open_ranges(uri) as reader:
        reader.read(1000)
        put("shrinking", bytes(1500))
        reader.seek(4000)
        with pytest.raises(OSError, match=r"past end|shorter"):
            reader.read(10)
