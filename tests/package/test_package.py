"""What is shipped is built, installed where nothing else is, and used as by somebody who has a clip and no GPU."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from pipeline.extras import EXTRA_OF

pytestmark = [pytest.mark.package, pytest.mark.timeout(900)]

REPOSITORY = Path(__file__).parents[2]
# What a user may pay for on a laptop that analyses a dozen clips.
_MOST_MB = 1000


def run(*command: str | Path, **more: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, **more)  # type: ignore[call-overload]


def checked(*command: str | Path, **more: object) -> str:
    done = run(*command, **more)
    assert done.returncode == 0, done.stdout + done.stderr
    return str(done.stdout)


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The wheel and the source distribution, of what git knows of."""
    source = tmp_path_factory.mktemp("source")
    for name in checked("git", "ls-files", "-z", cwd=REPOSITORY).split("\0"):
        if name and (REPOSITORY / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, source / name)
    checked(sys.executable, "-m", "build", source, "--outdir", source / "dist")
    (wheel,), (sdist,) = (list((source / "dist").glob(f"*.{suffix}")) for suffix in ("whl", "tar.gz"))
    return {"wheel": wheel, "sdist": sdist}


def test_what_is_shipped_holds_the_models_and_no_tests(dist: dict[str, Path]) -> None:
    with zipfile.ZipFile(dist["wheel"]) as wheel, tarfile.open(dist["sdist"]) as sdist:
        of_wheel, of_sdist = wheel.namelist(), [name.partition("/")[2] for name in sdist.getnames()]
    for names in (of_wheel, of_sdist):
        for wanted in (
            "pipeline/py.typed", "pipeline/vision/bundles/person_pose/model.safetensors",
            "pipeline/activity/bundles/everyday12-pose/model.json", "pipeline/report/page/player.js",
            "pipeline/motion/bundles/walkers-lstm/model.safetensors",
        ):  # fmt: skip
            assert wanted in names
        assert not [name for name in names if name.startswith("tests") or name.endswith((".avi", ".mp4", ".npz"))]
    assert {"docs/cluster.md", "CHANGELOG.md", "LICENSE"} <= set(of_sdist)


@pytest.fixture(scope="module", params=["wheel", "sdist"])
def bare(request: pytest.FixtureRequest, dist: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment that holds the package without extras, and nothing else."""
    home = tmp_path_factory.mktemp(request.param)
    checked(sys.executable, "-m", "venv", home)
    checked(home / "bin" / "pip", "install", "--quiet", "-c", REPOSITORY / "constraints.txt", dist[request.param])
    return home / "bin"


@pytest.fixture(scope="module")
def alone(bare: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The variables of a user who has never used the package."""
    home = tmp_path_factory.mktemp("home")
    return {"PATH": f"{bare}:/usr/bin:/bin", "HOME": str(home), "LANG": os.environ.get("LANG", "C.UTF-8")}


def test_it_is_small(bare: Path) -> None:
    there = {
        each["name"].lower().replace("-", "_") for each in json.loads(checked(bare / "pip", "list", "--format", "json"))
    }
    heavy = {"opencv_python" if name == "cv2" else name for name in EXTRA_OF} | {"open_clip_torch"}
    assert there & heavy == set()
    packages = next((bare.parent / "lib").glob("python*/site-packages"))
    size_mb = sum(path.lstat().st_size for path in packages.rglob("*") if path.is_file()) / 1e6
    print(f"{size_mb:.0f} MB")
    assert size_mb < _MOST_MB


def test_it_analyses_and_answers(bare: Path, alone: dict[str, str], street: Path, tmp_path: Path) -> None:
    def actionlake(*arguments: str | Path) -> str:
        return checked(bare / "actionlake", *arguments, env=alone, cwd=tmp_path)

    assert "walk" in actionlake("analyze", street, "--lake", tmp_path / "lake")
    count = "SELECT count(*) FROM segments WHERE label = 'walk'"
    assert int(actionlake("query", "--lake", tmp_path / "lake", "--format", "csv", count).split()[-1]) > 0
    for arguments in (
        ("info",), ("verify",), ("picture", "--out", "p.png"), ("report", "--out", "report"),
        ("watch", "--line", "a=0,200,320,200"), ("export", "--format", "elan", "--out", "elan"),
        ("search", "--like", f"{street}@1"), ("classify", "--model", "everyday12-pose-causal"),
    ):  # fmt: skip
        actionlake(*arguments, "--lake", tmp_path / "lake")


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (["analyze", "{street}", "--lake", "{new}", "--engine", "ray"], "cluster"),
        (["analyze", "{street}", "--lake", "{new}", "--detector", "person_nano"], "gpu"),
        (["analyze", "{street}", "--lake", "{new}", "--scope", "frame"], "gpu"),
        (["analyze", "{street}", "--lake", "{new}", "--embedder", "timm:resnet10t", "--model", "none"], "embedders"),
        (["analyze", "{street}", "--lake", "{new}", "--forecaster", "walkers-lstm"], "gpu"),
        (["train", "labels.csv", "--videos", "/", "--lake", "{new}", "--out", "model"], "gpu"),
        (["train-forecaster", "tracks.txt", "--out", "model"], "gpu"),
        (["pack", "everyday12-pose-causal", "--out", "{new}", "--runtime", "onnx"], "pack"),
    ],
)
def test_what_lacks_an_extra_says_which(
    bare: Path, alone: dict[str, str], street: Path, tmp_path: Path, arguments: list[str], extra: str
) -> None:
    (tmp_path / "labels.csv").write_text(f"video,label,start_s,end_s\n{street},walk,0,2\n{street},run,2,4\n")
    (tmp_path / "tracks.txt").write_text("".join(f"{10 * i} 1 {i * 0.4} 0\n" for i in range(60)))
    new = tmp_path / "new"
    done = run(
        bare / "actionlake", *(each.format(street=street, new=new) for each in arguments), env=alone, cwd=tmp_path
    )
    assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr
    assert f"pip install 'actionlake[{extra}]'" in " ".join(done.stderr.split())
    # Said before anything is made.
    assert not list(tmp_path.glob("new/*"))
