"""The job for Kubernetes and the container file name what there is."""

import re

import yaml

from mtllm_ds.commands.train import parse
from mtllm_ds.config import load_settings
from tests.fixtures.runs import REPOSITORY

LAUNCHERS = REPOSITORY / "launchers"


def test_the_job_resumes_a_recipe_that_ships_into_the_volume_that_all_pods_see():
    job = yaml.safe_load((LAUNCHERS / "kubernetes" / "pytorchjob.yaml").read_text())
    worker = job["spec"]["pytorchReplicaSpecs"]["Worker"]
    policy = job["spec"]["elasticPolicy"]
    assert policy["minReplicas"] == policy["maxReplicas"] == worker["replicas"]
    assert worker["restartPolicy"] == "OnFailure"  # torchrun tells a run that was asked to stop and saved as status 1
    assert job["spec"]["runPolicy"]["backoffLimit"] > 0
    pod = worker["template"]["spec"]
    (container,) = pod["containers"]
    launcher, *command = container["command"]
    assert (launcher, command[:3]) == ("torchrun", ["-m", "mtllm_ds", "train"])
    options = parse(command[3:])
    assert options.resume == "auto"
    folder = load_settings(options.recipe, options.overrides).run.output_dir
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert folder.startswith(f"{mounts['runs']}/")
    assert mounts.keys() == {volume["name"] for volume in pod["volumes"]}
    assert str(container["resources"]["limits"]["nvidia.com/gpu"]) == job["spec"]["nprocPerNode"]


def test_the_container_is_made_by_the_projects_own_target():
    lines = (LAUNCHERS / "Containerfile").read_text()
    assert "make venv" in lines
    assert re.search(r"^venv:", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    python = re.search(r"FROM python:(\d+)\.(\d+)", lines)
    assert (int(python[1]), int(python[2])) >= (3, 11)
