"""The server of a review: who may ask, for what, and what becomes of bad answers."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from pipeline.training.answers import read_answers
from tests.conftest import REPOSITORY
from tests.reviews import Process, review
from tests.shown import make_lake, video_id
from tests.test_cli import run, text, usage_error


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_lake(tmp_path_factory.mktemp("shown"))


@pytest.fixture
def answers(tmp_path: Path) -> Path:
    return tmp_path / "answers.csv"


@pytest.fixture(scope="module")
def unanswered(lake: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A review in which nobody answers: for many tests, which only look."""
    with review(lake, tmp_path_factory.mktemp("unanswered") / "answers.csv") as process:
        yield process


@pytest.fixture
def running(lake: Path, answers: Path) -> Iterator[Process]:
    with review(lake, answers) as process:
        yield process


def ask(
    url: str, path: str = "", content: Any = None, method: str | None = None, raw: bytes | None = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """Send one request, below the token unless `path` begins with a slash; an underscore in a header is a dash."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=20)
    body = raw if raw is not None else None if content is None else json.dumps(content).encode()
    given = {"Content-Type": "application/json"} if body is not None else {}
    given |= {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(
        method or ("GET" if body is None else "POST"), path if path[:1] == "/" else parts.path + path, body, given
    )
    answer = connection.getresponse()
    found = answer.status, dict(answer.getheaders()), answer.read()
    connection.close()
    return found


def fresh(url: str, content: Any) -> dict[str, Any]:
    """Return what is to be written with the version of the state that there is now, unless it has one."""
    return {"version": told(url, "state", {})["version"]} | content


def told(url: str, path: str, content: Any) -> dict[str, Any]:
    status, _, body = ask(url, path, content if path == "state" else fresh(url, content))
    assert status == 200, body
    answer: dict[str, Any] = json.loads(body)
    return answer


def refusal(url: str, content: Any) -> str:
    status, _, body = ask(url, "answers", fresh(url, content))
    assert status == 409
    return str(json.loads(body)["error"])


def test_only_who_knows_the_token_and_comes_from_here_is_served(unanswered: Process) -> None:
    port = urlsplit(unanswered.url).port
    assert ask(unanswered.url)[0] == 200
    for path in ("/", "/index.html", "/" + "x" * 24 + "/", "/../etc/passwd", "//"):
        assert ask(unanswered.url, path)[0] == 403, path
    elsewhere = [{"Host": "evil.example"}, {"Host": f"evil.example:{port}"}, {"Origin": "http://evil.example"},
                 {"Origin": "null"}, {"Sec_Fetch_Site": "cross-site"}]  # fmt: skip
    for headers in elsewhere:
        assert ask(unanswered.url, **headers)[0] == 403, headers
        assert ask(unanswered.url, "undo", {}, **headers)[0] == 403, headers
    assert ask(unanswered.url, Host=f"localhost:{port}", Origin=f"http://localhost:{port}")[0] == 200
    headers = ask(unanswered.url)[1]
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "Access-Control-Allow-Origin" not in headers
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"


def test_it_listens_on_the_loopback_interface_alone(unanswered: Process) -> None:
    others = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)} - {"127.0.0.1"}
    for address in others:
        with pytest.raises(OSError, match="refused"):
            socket.create_connection((address, urlsplit(unanswered.url).port or 0), timeout=5)


@pytest.mark.parametrize(
    "name",
    ["../../../../etc/passwd", "..%2f..%2fetc/passwd", f"{'f' * 16}/0-10.mp4", f"{video_id(0)}/0-10.csv",
     f"{video_id(0)}/../{video_id(0)}/0-10.mp4", f"{video_id(0)}/5-5.mp4", f"{video_id(0)}/0-9999.mp4"],
)  # fmt: skip
def test_there_is_no_way_out_of_the_videos(unanswered: Process, name: str) -> None:
    status, _, body = ask(unanswered.url, f"clips/{name}")
    assert status == 404
    assert b"root:" not in body


def test_media_come_by_ranges_of_bytes(unanswered: Process) -> None:
    name = f"clips/{video_id(1)}/1-4.mp4"  # Of an AVI, which no browser plays.
    status, headers, whole = ask(unanswered.url, name)
    assert (status, headers["Content-Type"], headers["Accept-Ranges"]) == (200, "video/mp4", "bytes")
    assert whole[4:8] == b"ftyp"
    for wanted, part in (("bytes=0-9", whole[:10]), ("bytes=100-", whole[100:]), ("bytes=-7", whole[-7:]),
                         ("bytes=5-99999999", whole[5:])):  # fmt: skip
        status, headers, body = ask(unanswered.url, name, Range=wanted)
        assert (status, body) == (206, part), wanted
        assert headers["Content-Range"] == f"bytes {whole.index(part)}-{whole.index(part) + len(part) - 1}/{len(whole)}"
    status, headers, _ = ask(unanswered.url, name, Range="bytes=99999999-")
    assert (status, headers["Content-Range"]) == (416, f"bytes */{len(whole)}")
    scene = ask(unanswered.url, name.replace("mp4", "js"))[2].decode()
    start = (
        f'actionlakeScene("{name.replace("mp4", "js")}", {{"start":1.0,"end":4.0,"tracks":[{{"id":1,"times":[0.0,0.1'
    )
    assert scene.startswith(start)


def test_a_copied_clip_says_when_it_begins(unanswered: Process) -> None:
    """With the keyframe before: every 0.4 s there is one."""
    scene = ask(unanswered.url, f"clips/{video_id(0)}/3-6.js")[2].decode()
    assert '{"start":2.8,"end":6.0,' in scene


def test_answers_that_make_no_sense_are_told_and_not_written(running: Process, answers: Path) -> None:
    segment = told(running.url, "state", {})["next"]
    good = {"segment_id": segment, "verdict": "right", "start_s": 0.0, "end_s": 2.0}
    for change, words in (
        ({"segment_id": "nobody"}, "no such segment"), ({"verdict": "maybe"}, "not one of right, wrong, label, new"),
        ({"end_s": 0.0}, "before its start"), ({"start_s": "0"}, "no number of seconds"),
        ({"start_s": -1}, "no number of seconds"),
        ({"end_s": True}, "no number of seconds"), ({"verdict": "label"}, "the label is empty"),
        ({"verdict": "label", "label": " "}, "the label is empty"),
        ({"verdict": "label", "label": "x" * 200}, "at most 100"),
        ({"verdict": "label", "label": ["x"]}, "a text"), ({"verdict": "new", "label": "x"}, "no such video"),
    ):  # fmt: skip
        assert words in refusal(running.url, good | change), change
    for raw in (b"", b"[]", b"{", b"[" * 60_000, b"\xff"):
        assert ask(running.url, "answers", raw=raw)[0] == 400
    assert ask(running.url, "answers", raw=b"{}", Content_Type="text/plain")[0] == 400
    assert ask(running.url, "answers", raw=b" " * 70_000)[0] == 413
    assert ask(running.url, "nonsense", {})[0] == 404
    assert not answers.exists()
    assert told(running.url, "answers", good)["n_answered"] == 1
    assert len(read_answers(answers)) == 1


def test_another_answer_takes_the_place_of_the_first_and_undo_brings_it_back(running: Process, answers: Path) -> None:
    segment = told(running.url, "state", {})["next"]
    given = {"segment_id": segment, "start_s": 0.0, "end_s": 2.0}
    told(running.url, "answers", given | {"verdict": "right"})
    first = read_answers(answers)
    assert told(running.url, "answers", given | {"verdict": "label", "label": 'hop, skip\n"jump"'})["n_answered"] == 1
    assert read_answers(answers)[0].label == 'hop, skip\n"jump"'
    assert told(running.url, "undo", {})["undone"] == {"segment_id": segment, "start_s": 0.0, "end_s": 2.0}
    assert read_answers(answers) == first
    assert told(running.url, "undo", {})["n_answered"] == 0
    assert told(running.url, "undo", {})["said"] == "there is nothing to undo"


def test_what_answers_an_earlier_state_is_refused_and_the_present_one_told(running: Process, answers: Path) -> None:
    """Two windows show the same; what one of them wrote is neither replaced nor taken back by the other."""
    state = told(running.url, "state", {})
    seen = {"version": state["version"], "segment_id": state["next"], "start_s": 0.0, "end_s": 2.0}
    assert ask(running.url, "answers", seen | {"verdict": "right"})[0] == 200
    for path, content in (("answers", seen | {"verdict": "wrong"}), ("undo", seen), ("skip", seen)):
        status, _, body = ask(running.url, path, content)
        assert status == 409, path
        refused = json.loads(body)
        assert "another window of this review wrote" in refused["error"]
        assert refused["state"] == told(running.url, "state", {})
    assert [answer.verdict for answer in read_answers(answers)] == ["right"]
    again = seen | {"verdict": "wrong", "version": refused["state"]["version"]}
    assert ask(running.url, "answers", again)[0] == 200
    assert [answer.verdict for answer in read_answers(answers)] == ["wrong"]


def test_the_state_tells_what_was_moved_and_what_is_new(lake: Path, answers: Path) -> None:
    """Also when a review goes on: whose a new segment is, is told by its box."""
    with review(lake, answers, "--where", "label = 'sit' AND video_id = '0000000000000000'") as running:
        segment = told(running.url, "state", {})["next"]
        told(running.url, "answers", {"segment_id": segment, "verdict": "right", "start_s": 2.5, "end_s": 4.0})
        new = {"video_id": video_id(0), "track_id": 2, "verdict": "new", "label": "hop", "start_s": 0.5, "end_s": 1.5}
        told(running.url, "answers", new)
        left = told(running.url, "state", {})["next"]
        told(running.url, "answers", {"segment_id": left, "verdict": "right", "start_s": 2.0, "end_s": 4.0})
    with review(lake, answers, "--where", "label = 'sit'") as running:
        state = told(running.url, "state", {})
    assert state["moved"] == {segment: [2.5, 4.0]}
    del new["verdict"]
    assert state["new"] == [new]


def test_a_second_review_of_one_file_is_refused(running: Process, lake: Path, answers: Path) -> None:
    assert "another review writes to it; give each reviewer a file" in usage_error(
        "review", "--lake", lake, "--answers", answers
    )
    with review(lake, answers.with_name("other.csv")) as other:
        assert other.url.startswith("http://127.0.0.1:")


def test_a_taken_port_is_told(running: Process, lake: Path, tmp_path: Path) -> None:
    port = str(urlsplit(running.url).port)
    assert f"port {port} can't be had" in usage_error(
        "review", "--lake", lake, "--answers", tmp_path / "b.csv", "--port", port
    )
    assert "port 70000" in usage_error("review", "--lake", lake, "--answers", tmp_path / "b.csv", "--port", "70000")


def test_answers_of_another_lake_and_other_tables_are_refused(lake: Path, tmp_path: Path) -> None:
    other = make_lake(tmp_path / "other", 1)
    with review(other, tmp_path / "a.csv") as running:
        segment = told(running.url, "state", {})["next"]
        told(running.url, "answers", {"segment_id": segment, "verdict": "right", "start_s": 0.0, "end_s": 2.0})
    assert "is of another lake" in usage_error("review", "--lake", lake, "--answers", tmp_path / "a.csv")
    (tmp_path / "b.csv").write_text("video,start_s,end_s,label\na.mp4,0,1,walk\n")
    assert "no file of answers, for it has no column verdict" in usage_error(
        "review", "--lake", lake, "--answers", tmp_path / "b.csv"
    )
    assert "no segment meets --where" in usage_error(
        "review", "--lake", lake, "--answers", tmp_path / "c.csv", "--where", "score > 2"
    )
    assert "no segment was answered in both" in usage_error(
        "agreement", *[_one_answer(tmp_path / n, n) for n in ("x", "y")]
    )


def _one_answer(path: Path, segment: str) -> Path:
    columns = read_columns()
    cells = {"video": "v", "start_s": "0", "end_s": "1", "label": "walk", "verdict": "right", "segment_id": segment}
    path.write_text(",".join(columns) + "\n" + ",".join(cells.get(name, "") for name in columns) + "\n")
    return path


def read_columns() -> tuple[str, ...]:
    from pipeline.training.answers import COLUMNS

    return COLUMNS


def test_a_full_disk_loses_nothing_that_was_saved(lake: Path, tmp_path: Path) -> None:
    """No file may grow beyond a kilobyte in that process: what a full disk does to it."""
    answers = tmp_path / "answers.csv"
    command = [sys.executable, "-m", "pipeline.cli", "review", "--lake", str(lake), "--answers", str(answers)]
    process = subprocess.Popen(
        ["sh", "-c", 'ulimit -f 2; exec "$@"', "sh", *command],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=REPOSITORY,
    )  # fmt: skip
    assert process.stdout
    url = process.stdout.readline().strip()
    try:
        saved = 0
        while True:
            segment = told(url, "state", {})["next"]
            given = {"segment_id": segment, "verdict": "right", "start_s": 0.0, "end_s": 2.0}
            status, _, body = ask(url, "answers", fresh(url, given))
            if status != 200:
                break
            saved += 1
        assert status == 409
        assert "answers.csv: can't be written (File too large); make room, and go on" in json.loads(body)["error"]
        assert saved > 0
        assert len(read_answers(answers)) == told(url, "state", {})["n_answered"] == saved
        assert [path.name for path in tmp_path.iterdir() if path.suffix == ".part"] == []
    finally:
        process.kill()
        process.communicate(timeout=30)


def test_answers_of_two_models_stand_side_by_side(tmp_path: Path) -> None:
    lake = make_lake(tmp_path, 1)
    shutil.copytree(lake / "segments" / "model=m", lake / "segments" / "model=other")
    for model in ("m", "other"):
        with review(lake, tmp_path / "a.csv", "--model", model) as running:
            state = told(running.url, "state", {})
            assert state["n_answered"] == 0
            told(
                running.url, "answers", {"segment_id": state["next"], "verdict": "right", "start_s": 0.0, "end_s": 2.0}
            )
    assert [answer.model for answer in read_answers(tmp_path / "a.csv")] == ["m", "other"]
    with review(lake, tmp_path / "a.csv", "--model", "m") as running:
        assert told(running.url, "state", {})["n_answered"] == 1


def test_labels_that_were_typed_are_offered_again(lake: Path, answers: Path) -> None:
    for typed in ("Kneel", "kneel"):
        with review(lake, answers, "--where", "label = 'sit'") as running:
            state = told(running.url, "state", {})
            assert {"walk", "sit", "fall"} <= set(state["labels"])
            given = {"segment_id": state["next"], "verdict": "label", "label": typed, "start_s": 2.0, "end_s": 4.0}
            assert "Kneel" in told(running.url, "answers", given)["labels"]
    assert [answer.label for answer in read_answers(answers)] == ["Kneel", "Kneel"]


def test_whole_frames_can_be_reviewed(tmp_path: Path) -> None:
    lake = make_lake(tmp_path, 1, frame_scope=True)
    with review(lake, tmp_path / "a.csv") as running:
        segment = told(running.url, "state", {})["next"]
        told(running.url, "answers", {"segment_id": segment, "verdict": "right", "start_s": 0.5, "end_s": 2.0})
    (answer,) = read_answers(tmp_path / "a.csv")
    assert (answer.x1, answer.start_s) == (None, 0.5)


def test_a_random_share_keeps_the_figure_honest(running: Process) -> None:
    for _ in range(8):
        segment = told(running.url, "state", {})["next"]
        state = told(running.url, "answers", {"segment_id": segment, "verdict": "right", "start_s": 0.0, "end_s": 2.0})
    assert state["random"] == "of 2 drawn at random 2 are right"


def test_an_empty_lake_has_nothing_to_review(tmp_path: Path) -> None:
    shutil.copytree(make_lake(tmp_path, 1), tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "segments")
    shown = run("review", "--lake", tmp_path / "copy", "--answers", tmp_path / "a.csv")
    assert shown.returncode == 2
    assert "no model has labelled it" in text(shown.stderr)
