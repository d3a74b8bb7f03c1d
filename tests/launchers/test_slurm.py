"""The job script of SLURM, its shell logic alone: `srun` and `scontrol` are stubs that write down how they were called."""

import os
import subprocess
import sys

import pytest
import yaml

from tests.fixtures.runs import REPOSITORY

SCRIPT = REPOSITORY / "launchers" / "slurm" / "train.sbatch"


@pytest.fixture
def place(tmp_path):
    """A folder that looks to the script like the repository; `srun` ends with the status in the file `status`."""
    programs = {
        ".venv/bin/python": f'exec {sys.executable} "$@"',
        "bin/srun": 'printf "%s\\n" "$MASTER_PORT" "$@" > srun.txt\nexit "$(cat status)"',
        "bin/scontrol": 'printf "%s\\n" "$@" > scontrol.txt',
    }
    for name, body in programs.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/bash\n{body}\n")
        path.chmod(0o755)
    (tmp_path / "launchers").symlink_to(REPOSITORY / "launchers")
    recipe = {
        "run": {"output_dir": "runs/my run", "max_steps": 2},
        "model": {"encoder": {"name": "mt"}, "llm": {"name": "llm"}},
        "data": {"train": "data"},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return tmp_path


def submit(place, *overrides, status=0):
    """Exit status of the script, and what `srun` was given."""
    (place / "status").write_text(str(status))
    environment = {**os.environ, "PATH": f"{place / 'bin'}:{os.environ['PATH']}", "SLURM_JOB_ID": "45678"}
    done = subprocess.run(
        ["bash", SCRIPT, "recipe.yaml", *overrides], cwd=place, env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    port, *command = (place / "srun.txt").read_text().splitlines()
    assert port == str(20000 + 45678 % 20000)
    assert command[:4] == [".venv/bin/python", "launchers/train.py", "--recipe", "recipe.yaml"]
    return done.returncode, command[4:]


def test_a_first_start_does_not_resume(place):
    (place / "runs" / "my run" / "checkpoints").mkdir(parents=True)
    assert submit(place, "run.seed=3") == (0, ["run.seed=3"])
    assert not (place / "scontrol.txt").exists()


@pytest.mark.parametrize("folder", ["my run/checkpoints", "my run/seed-3/checkpoints", "elsewhere/seed-0/checkpoints"])
def test_a_run_with_a_checkpoint_resumes(place, folder):
    (place / "runs" / folder / "step_00000002").mkdir(parents=True)
    overrides = ["run.seeds=[0,3]"] if "seed" in folder else []
    overrides += ["run.output_dir=runs/elsewhere"] if "elsewhere" in folder else []
    assert submit(place, *overrides) == (0, ["--resume", *overrides])


def test_one_that_was_asked_to_stop_goes_back_into_the_queue(place):
    assert submit(place, status=75)[0] == 0
    assert (place / "scontrol.txt").read_text().split() == ["requeue", "45678"]


@pytest.mark.parametrize("status", [2, 3])
def test_a_mistake_is_not_tried_again(place, status):
    assert submit(place, status=status)[0] == status
    assert not (place / "scontrol.txt").exists()
