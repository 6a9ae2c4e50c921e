from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.archive.sources import list_videos
from pipeline.errors import UsageError


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    for name in ("b.mp4", "deep/er/a.MKV", "deep/notes.txt", "deep/b.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x" * 10)
    return tmp_path


def names(refs: list) -> list[str]:
    return [ref.uri.rsplit("/", 1)[1] for ref in refs]


def test_a_folder_is_searched_recursively_for_videos_only(archive: Path) -> None:
    refs = list_videos([str(archive)])
    assert [ref.uri for ref in refs] == sorted(str(archive / n) for n in ("b.mp4", "deep/b.mp4", "deep/er/a.MKV"))


def test_a_glob_and_an_overlapping_folder_name_each_video_once(archive: Path) -> None:
    assert names(list_videos([f"{archive}/**/*.mp4", str(archive), str(archive / "b.mp4")])) == [
        "b.mp4",
        "b.mp4",
        "a.MKV",
    ]


def test_a_file_named_itself_is_taken_whatever_its_suffix(archive: Path) -> None:
    assert names(list_videos([str(archive / "deep/notes.txt")])) == ["notes.txt"]


def test_a_changed_file_is_another_video_and_an_unchanged_one_the_same(archive: Path) -> None:
    before = {ref.uri: ref.video_id for ref in list_videos([str(archive)])}
    (archive / "b.mp4").write_bytes(b"y" * 11)
    after = {ref.uri: ref.video_id for ref in list_videos([str(archive)])}
    assert {uri for uri in before if before[uri] != after[uri]} == {str(archive / "b.mp4")}


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_a_manifest_lists_files_and_spans(archive: Path, suffix: str) -> None:
    rows = [
        {"uri": "b.mp4", "start_s": None, "end_s": None},
        {"uri": str(archive / "deep/b.mp4"), "start_s": 1.5, "end_s": 4.0},
        {"uri": "gone.mp4", "start_s": None, "end_s": None},
    ]
    path = archive / f"list.{suffix}"
    if suffix == "csv":
        path.write_text(
            "uri,start_s,end_s\n" + "".join(f"{r['uri']},{r['start_s'] or ''},{r['end_s'] or ''}\n" for r in rows)
        )
    elif suffix == "jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    refs = {ref.uri.removeprefix(f"{archive}/"): ref for ref in list_videos([str(path)])}
    assert set(refs) == {"b.mp4", "deep/b.mp4", "gone.mp4"}
    assert (refs["deep/b.mp4"].start_s, refs["deep/b.mp4"].end_s) == (1.5, 4.0)
    assert refs["b.mp4"].start_s is None
    assert refs["gone.mp4"].size_bytes == -1


def test_spans_of_one_file_have_ids_of_their_own(archive: Path) -> None:
    path = archive / "list.csv"
    path.write_text("uri,start_s,end_s\nb.mp4,0,1\nb.mp4,1,2\nb.mp4,,\n")
    assert len({ref.video_id for ref in list_videos([str(path)])}) == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("path\nb.mp4\n", "no `uri`"),
        ("uri,start_s,end_s\nb.mp4,5,2\n", "row 2 ends at 2 s, before it starts at 5 s"),
        ("uri,start_s\nb.mp4,soon\n", "start_s = 'soon'"),
        ("uri,start_s\nb.mp4,-3\n", "start_s = '-3'"),
        ("uri\n", "no videos"),
    ],
)
def test_a_senseless_manifest_is_refused_with_its_name(archive: Path, content: str, message: str) -> None:
    path = archive / "list.csv"
    path.write_text(content)
    with pytest.raises(UsageError, match=r"list\.csv") as caught:
        list_videos([str(path)])
    assert message in str(caught.value)


def test_missing_and_empty_sources_are_refused(archive: Path) -> None:
    (archive / "empty").mkdir()
    with pytest.raises(UsageError, match="nowhere: no such file or folder"):
        list_videos([str(archive / "nowhere")])
    with pytest.raises(UsageError, match="empty: no videos in it"):
        list_videos([str(archive / "empty")])
    with pytest.raises(UsageError, match="no file system for gopher://"):
        list_videos(["gopher://host/video.mp4"])


def test_globs_on_other_file_systems_read_as_in_a_shell() -> None:
    import fsspec

    store = fsspec.filesystem("memory")
    for name in ("a.mp4", "b.txt", "deep/c.mp4", "deep/er/d.mp4"):
        store.pipe(f"/bucket/{name}", b"x")
    found = {p: names(list_videos([f"memory://bucket/{p}"])) for p in ("*.mp4", "deep/*.mp4", "**/*.mp4", "?.mp4")}
    assert found == {
        "*.mp4": ["a.mp4"], "deep/*.mp4": ["c.mp4"], "**/*.mp4": ["a.mp4", "c.mp4", "d.mp4"], "?.mp4": ["a.mp4"],
    }  # fmt: skip
