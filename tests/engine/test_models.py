"""Which models label where none is named, and what options they bring."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline import Config
from pipeline.activity.bundle import EMBEDDED_BUNDLES, load_bundle
from pipeline.engine.models import check_fit, check_lake, check_vectors, choose_models, config_for, fitted
from pipeline.errors import UsageError
from pipeline.lake.store import Lake

POSE, LOOK, CNN = "everyday12-pose", "daily22-look", "daily22-person"


def chosen(config: Config) -> list[str]:
    """Return the names of the models that come with the package for such a job; that they fit is checked."""
    bundles = choose_models("default", config.scope, config)
    check_fit(bundles, fitted(config, bundles))
    return [bundle.name for bundle in bundles]


@pytest.mark.parametrize("name", [POSE, LOOK])
def test_people_are_labelled_from_one_look(name: str) -> None:
    (bundle,) = choose_models("default" if name == POSE else name, "person")
    config = fitted(Config(), [bundle])
    assert bundle.name == name
    assert (config.chosen_embedder, config.detector) == ("detector", "person_pose")
    assert (config.chosen_fps, config.chosen_detector_px) == (bundle.sample_fps, 480)
    assert config.inputs == bundle.spec.inputs
    assert not [name for name in config.inputs if name.startswith("frame")]


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ({}, [POSE]),
        ({"detector": "person_pose"}, [POSE]),
        ({"detector": "weights/yolo11n-pose.pt"}, [POSE]),
        ({"embedder": "detector"}, [LOOK]),
        ({"embedder": "detector", "detector": "models/mine"}, [LOOK]),
        ({"detector_px": 640, "sample_fps": 10.0}, [POSE]),
        ({"inputs": load_bundle(LOOK).spec.inputs}, [LOOK]),
        ({"detector": "yolo11n.pt"}, [CNN]),
        ({"detector": "person_nano"}, [CNN]),
        ({"embedder": "efficientnet_lite0"}, [CNN]),
        ({"inputs": load_bundle(CNN).spec.inputs}, [CNN]),
        ({"scope": "both"}, ["jhmdb21-frame", CNN]),
        ({"scope": "frame"}, ["jhmdb21-frame"]),
    ],
)
def test_what_is_named_decides_who_labels(named: dict[str, object], expected: list[str]) -> None:
    assert chosen(Config.load(None, **named)) == expected


def test_a_model_brings_the_detector_it_was_trained_with(tmp_path: Path) -> None:
    features = {"detector": "weights/mine.pt", "detector_px": 416}
    bundle = replace(load_bundle(CNN), name="own", training={"features": features})
    bundle.save(tmp_path)
    assert config_for([load_bundle(tmp_path)])["detector"] == "weights/mine.pt"
    for named, detector, px in (
        ({}, "weights/mine.pt", 416),
        ({"detector": "weights/mine.pt"}, "weights/mine.pt", 416),
        ({"detector_px": 640}, "weights/mine.pt", 640),
        ({"detector": "yolo11n.pt"}, "yolo11n.pt", None),
        ({"detector": "person_pose"}, "person_pose", 480),
    ):
        config = fitted(Config.load(None, **named), [bundle])
        assert (config.detector, config.chosen_detector_px) == (detector, px)


def test_another_detector_than_that_of_training_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    bundle = replace(load_bundle(LOOK), training={"features": {"detector": "models/mine"}})
    config = fitted(Config(), [bundle])
    # Where the folder lies on a machine does not matter.
    check_fit([bundle], replace(config, detector="/elsewhere/mine"))
    assert not caplog.records
    check_fit([bundle], replace(config, detector="person_pose"))
    assert "was trained on what detector 'models/mine' sees; of what 'person_pose' sees" in caplog.text


@pytest.mark.parametrize(
    ("name", "detector", "named"),
    [(LOOK, None, LOOK), (CNN, None, CNN), (CNN, "yolo11x-pose.pt", f"{CNN} --detector yolo11x-pose.pt")],
)
def test_a_lake_made_for_another_model_tells_how_to_go_on(
    tmp_path: Path, name: str, detector: str | None, named: str
) -> None:
    """And goes on so."""
    before = fitted(Config(detector=detector), [load_bundle(name)])
    lake = Lake(str(tmp_path / "lake"))
    lake.claim(before.feature_options())
    now = fitted(Config(detector=detector), choose_models("default", "person"))
    with pytest.raises(UsageError, match=rf"another lake\. `--model {named}` goes on with it$"):
        check_lake(lake, now)
    check_lake(lake, fitted(Config(detector=detector), choose_models(name, "person")))


@pytest.mark.parametrize("name", [POSE, LOOK, CNN])
def test_a_lake_made_otherwise_for_the_same_model_tells_what_differs(tmp_path: Path, name: str) -> None:
    """That model is named already: to name it would not help."""
    before = fitted(Config(), [load_bundle(name)])
    lake = Lake(str(tmp_path / "lake"))
    lake.claim(before.feature_options())
    with pytest.raises(UsageError, match=r"sample_fps = \S+ there, 5\.0 now\); use the same, or another lake$"):
        check_lake(lake, replace(before, sample_fps=5.0))


def test_a_lake_of_frames_of_another_size_tells_how_to_go_on(tmp_path: Path) -> None:
    """Earlier versions decoded frames at 640 px for the default model, too."""
    options, now = tmp_path / "options.toml", fitted(Config(), [load_bundle(POSE)])
    lake = Lake(str(tmp_path / "lake"))
    lake.claim(replace(now, frame_px=640).feature_options())
    with pytest.raises(UsageError, match=r"`frame_px = 640` in the table \[features\] of a --config file") as told:
        check_lake(lake, now)
    named = str(told.value).split("`")[1]
    options.write_text(f"[features]\n{named}\n")
    check_lake(lake, fitted(Config.load(options), [load_bundle(POSE)]))


def test_all_that_comes_with_the_package_is_chosen_by_someone() -> None:
    jobs = [*(Config(scope=scope) for scope in ("frame", "person", "both")), Config(embedder="detector")]  # type: ignore[arg-type]
    assert {name for job in jobs for name in chosen(job)} == set(EMBEDDED_BUNDLES) - {"everyday12-pose-causal"}


def test_vectors_of_another_length_are_refused() -> None:
    bundles = [load_bundle(LOOK)]
    check_vectors(bundles, bundles[0].spec.embedding_dim)
    with pytest.raises(
        UsageError, match="'daily22-look' reads vectors of 1328 numbers, but embedder and detector give"
    ):
        check_vectors(bundles, 1280)
    check_vectors([load_bundle(POSE)], 1280)
