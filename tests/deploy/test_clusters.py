"""The files of clusters satisfy their schemas, fit each other, and their commands can be given."""

import json
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray.autoscaler
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from wm_distributed.launch.arguments import parse_train
from wm_distributed.launch.presets import load_preset
from wm_distributed.launch.ray_cluster import CLUSTER_SETTINGS

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
KUBERAY = json.loads(Path(__file__).with_name("kuberay-v1.7.0.json").read_text())
RAY_FILES = ("ray/cloud.yaml", "ray/machines.yaml")


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text()))


def kuberay_errors(document: dict[str, Any]) -> list[str]:
    schema = KUBERAY | {"$ref": f"#/$defs/{document['kind']}"}
    found = jsonschema.Draft202012Validator(schema).iter_errors(document)
    return [f"{error.json_path}: {error.message}" for error in found]


def ray_cluster() -> dict[str, Any]:
    (cluster,) = (d for d in documents("kubernetes/cluster.yaml") if d["kind"] == "RayCluster")
    return cluster


@pytest.mark.parametrize("name", RAY_FILES)
def test_a_cluster_file_satisfies_the_schema_of_rays_launcher(name: str) -> None:
    schema = Path(ray.autoscaler.__file__).with_name("ray-schema.json").read_text()
    (config,) = documents(name)
    jsonschema.validate(config, json.loads(schema))
    config["max_worker"] = 3
    with pytest.raises(jsonschema.ValidationError, match="max_worker"):
        jsonschema.validate(config, json.loads(schema))


@pytest.mark.parametrize("name", RAY_FILES)
def test_rays_launcher_accepts_a_cluster_file_and_fills_in_the_rest(name: str) -> None:
    (config,) = documents(name)
    full = prepare_config(config)
    validate_config(full)
    kinds = full["available_node_types"].values()
    assert 0 < sum(kind["min_workers"] for kind in kinds) <= full["max_workers"]


@pytest.mark.parametrize("name", ["kubernetes/cluster.yaml", "kubernetes/job.yaml"])
def test_a_manifest_satisfies_the_schema_of_kuberay(name: str) -> None:
    found = [d for d in documents(name) if d["apiVersion"].startswith("ray.io/")]
    assert found
    assert [error for document in found for error in kuberay_errors(document)] == []


def test_the_schema_refuses_a_field_that_does_not_exist_and_a_wrong_type() -> None:
    cluster = ray_cluster()
    cluster["spec"]["workerGroupSpecs"][0]["minReplica"] = 1
    cluster["spec"]["workerGroupSpecs"][0]["maxReplicas"] = "8"
    assert len(kuberay_errors(cluster)) == 2


def test_a_job_has_the_cluster_of_the_other_manifest() -> None:
    (job,) = documents("kubernetes/job.yaml")
    assert job["spec"]["rayClusterSpec"] == ray_cluster()["spec"]


def test_pods_have_what_they_need() -> None:
    spec = ray_cluster()["spec"]
    groups = {group["groupName"]: group for group in spec["workerGroupSpecs"]}
    assert spec["rayVersion"] == version("ray")
    for group in groups.values():
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for group in [spec["headGroupSpec"], *groups.values()]:
        (container,) = group["template"]["spec"]["containers"]
        assert {m["mountPath"] for m in container["volumeMounts"]} == {"/runs"}
        assert {"readinessProbe", "livenessProbe"} <= set(container)
        assert {e["name"]: e["value"] for e in container["env"]} == CLUSTER_SETTINGS
        gpus = container["resources"]["limits"].get("nvidia.com/gpu")
        assert gpus == ("1" if group is groups["gpu"] else None)


@pytest.mark.parametrize("name", [*RAY_FILES, "slurm/train.sbatch"])
def test_ray_is_started_with_the_settings_of_a_run_of_ones_own(name: str) -> None:
    text = (DEPLOY / name).read_text()
    starts = 2 if name in RAY_FILES else 1
    for setting, value in CLUSTER_SETTINGS.items():
        assert text.count(f"{setting}={value} ") + text.count(f"{setting}={value}\n") == starts


def shown_commands() -> Iterator[list[str]]:
    """The arguments of ``train`` in every file."""
    for path in sorted(DEPLOY.rglob("*")):
        if path.suffix in {".yaml", ".sbatch"}:
            text = re.sub(r"\\\n#?\s*", " ", path.read_text())
            shown = r"(?:wm-distributed train|train\.sbatch) +(dreamer-[^\"\n]*)"
            yield from (shlex.split(line) for line in re.findall(shown, text))
    (job,) = documents("kubernetes/job.yaml")
    (flags,) = re.findall(r'\[@\]}" (.*)', re.sub(r"\\\n\s*", " ", job["spec"]["entrypoint"]))
    yield ["dreamer-atari100k", *shlex.split(flags.rstrip("'"))]


def test_every_command_that_is_shown_can_be_given() -> None:
    commands = list(shown_commands())
    assert len(commands) == 5
    for name, *flags in commands:
        preset, family = load_preset(name)
        parse_train(preset, family.config, flags, "wm-distributed train")


@pytest.mark.parametrize("script", ["deploy/slurm/train.sbatch", "tests/deploy/slurm_two_nodes.sh"])
def test_shell_scripts_have_no_mistakes_that_a_checker_finds(script: str) -> None:
    checker = ["shellcheck"] if shutil.which("shellcheck") else ["bash", "-n"]
    done = subprocess.run([*checker, ROOT / script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_image_copies_everything_that_the_installation_reads() -> None:
    text = (DEPLOY / "Containerfile").read_text()
    lines = re.findall(r"^COPY (.*)", text, re.M)
    copied = {source for line in lines for source in line.split()[:-1]}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    assert copied == packages | {"constraints.txt", "pyproject.toml", "README.md", "LICENSE"}
    assert all((ROOT / source).exists() for source in copied)
