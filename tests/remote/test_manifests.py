"""What `cluster/` holds: valid by the schemas of those that read it, and about things that are there."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray.autoscaler
import yaml

from pipeline.lake.progress import progress_of
from pipeline.lake.store import Lake
from tests.conftest import REPOSITORY, _shared
from tests.remote.conftest import Head

CLUSTER = REPOSITORY / "cluster"
KUBERAY = CLUSTER / "kuberay"
KINDS = {"RayCluster": "rayclusters", "RayJob": "rayjobs", "RayCronJob": "raycronjobs"}
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


def manifests() -> list[dict[str, Any]]:
    return [each for path in sorted(KUBERAY.glob("*.yaml")) for each in yaml.safe_load_all(path.read_text())]


def of_kind(kind: str) -> dict[str, Any]:
    (found,) = (each for each in manifests() if each["kind"] == kind)
    return found


def job_spec(manifest: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = manifest["spec"]
    return spec["jobTemplate"] if manifest["kind"] == "RayCronJob" else spec


def cluster_spec(manifest: dict[str, Any]) -> dict[str, Any]:
    return manifest["spec"] if manifest["kind"] == "RayCluster" else job_spec(manifest)["rayClusterSpec"]


def pods(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [group["template"] for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])]


def strictly(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema that refuses fields which Kubernetes would silently drop."""
    strict = {
        name: {each: strictly(of_each) for each, of_each in value.items()}
        if name == "properties"
        else strictly(value)
        if isinstance(value, dict)
        else value
        for name, value in schema.items()
    }
    if "properties" in strict and not strict.get("x-kubernetes-preserve-unknown-fields"):
        strict.setdefault("additionalProperties", False)
    return strict


def crd_schema(kind: str) -> dict[str, Any]:
    path = _shared("ACTIONLAKE_SCHEMAS", "schemas") / "kuberay" / f"ray.io_{KINDS[kind]}.yaml"
    versions = yaml.load(path.read_text(), yaml.CSafeLoader)["spec"]["versions"]
    (schema,) = (each["schema"]["openAPIV3Schema"] for each in versions if each["name"] == "v1")
    strict = strictly(schema)
    # An object of Kubernetes' own, which the definition leaves open.
    strict["properties"]["metadata"] = {"type": "object"}
    return strict


@pytest.mark.parametrize("kind", KINDS)
def test_what_kuberay_reads_fits_its_schema(kind: str) -> None:
    """Every field is one that it knows; a misspelt one would fail."""
    manifest, schema = of_kind(kind), crd_schema(kind)
    jsonschema.validate(manifest, schema)
    cluster_spec(manifest)["headGroupSpec"]["rayStartParms"] = {}
    with pytest.raises(jsonschema.ValidationError, match="rayStartParms"):
        jsonschema.validate(manifest, schema)


def test_the_clusters_of_all_kinds_are_one() -> None:
    assert cluster_spec(of_kind("RayJob")) == cluster_spec(of_kind("RayCronJob")) == cluster_spec(of_kind("RayCluster"))
    assert job_spec(of_kind("RayJob")) == job_spec(of_kind("RayCronJob"))


def test_what_pods_refer_to_is_there() -> None:
    """Images that the Dockerfile builds, settings, volumes; the entry point's variables are among the settings."""
    targets = set(re.findall(r"^FROM base AS (\w+)$", (CLUSTER / "Dockerfile").read_text(), re.M))
    settings = of_kind("ConfigMap")
    labels = of_kind("PodDisruptionBudget")["spec"]["selector"]["matchLabels"]
    spec = cluster_spec(of_kind("RayCluster"))
    assert labels == spec["headGroupSpec"]["template"]["metadata"]["labels"]
    for pod in pods(spec):
        volumes = {volume["name"] for volume in pod["spec"]["volumes"]}
        for container in pod["spec"]["containers"]:
            assert container["image"] in {f"actionlake:{PROJECT['version']}-{target}" for target in targets}
            assert container["envFrom"][0]["configMapRef"]["name"] == settings["metadata"]["name"]
            assert {mount["name"] for mount in container["volumeMounts"]} == volumes
            assert "/dev/shm" in {mount["mountPath"] for mount in container["volumeMounts"]}
    assert set(re.findall(r"\$(\w+)", job_spec(of_kind("RayJob"))["entrypoint"])) <= set(settings["data"])
    assert f"ray=={spec['rayVersion']}" in (REPOSITORY / "constraints.txt").read_text().split()


def test_nobody_gets_in_without_a_token_or_as_root() -> None:
    spec = cluster_spec(of_kind("RayCluster"))
    assert spec["authOptions"] == {"mode": "token"}
    for pod in pods(spec):
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
        assert all(not each["securityContext"]["allowPrivilegeEscalation"] for each in pod["spec"]["containers"])
    policy = of_kind("NetworkPolicy")["spec"]
    assert policy["policyTypes"] == ["Ingress"]
    assert policy["podSelector"]["matchLabels"].items() <= pods(spec)[0]["metadata"]["labels"].items()
    for name in ("aws.yaml", "gcp.yaml"):
        text = (CLUSTER / name).read_text()
        assert "--env=RAY_AUTH_MODE=token" in text
        assert "--dashboard-host=127.0.0.1" in text
    assert "export RAY_AUTH_MODE=token" in (CLUSTER / "slurm.sh").read_text()


def test_a_gpu_pod_may_decode_video_and_the_head_decodes_nothing() -> None:
    spec = cluster_spec(of_kind("RayCluster"))
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    (gpu,) = (group for group in spec["workerGroupSpecs"] if group["groupName"] == "gpu")
    (container,) = gpu["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    (capabilities,) = (each["value"] for each in container["env"] if each["name"] == "NVIDIA_DRIVER_CAPABILITIES")
    assert "video" in capabilities.split(",")
    assert container["image"].endswith("-cuda")


@pytest.mark.parametrize("name", ["aws.yaml", "gcp.yaml"])
def test_what_rays_launcher_reads_fits_its_schema(name: str) -> None:
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    cluster = yaml.safe_load((CLUSTER / name).read_text())
    jsonschema.validate(cluster, schema)
    assert cluster["head_node_type"] in cluster["available_node_types"]
    assert cluster["docker"]["image"].endswith(f"/actionlake:{PROJECT['version']}-cpu")


def test_what_the_image_is_made_of_is_there() -> None:
    text = (CLUSTER / "Dockerfile").read_text()
    for sources in re.findall(r"^COPY (.+) \S+$", text, re.M):
        assert all((REPOSITORY / source).exists() for source in sources.split())
        ignored = (REPOSITORY / ".dockerignore").read_text().splitlines()
        assert all(f"!{source}" in ignored for source in sources.split())
    assert "cluster" in PROJECT["optional-dependencies"]
    assert re.search(r"^USER ray$", text, re.M)
    # KubeRay's probes call it.
    assert "wget" in text


@pytest.mark.e2e
@pytest.mark.long
def test_the_entry_point_runs_on_a_head(head: Head) -> None:
    """As it stands in the manifest, by the job server, in the head's environment."""
    assert head.run_to_its_end(job_spec(of_kind("RayJob"))["entrypoint"]) == "SUCCEEDED"
    assert progress_of(Lake(head.env["LAKE"])).is_done
