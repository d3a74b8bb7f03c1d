"""The job script of SLURM, its shell logic alone: `srun` and `scontrol` are stubs that write down how they were called."""

import os
import subprocess

import pytest

from mtllm_ds.training.preemption import EXIT_PREEMPTED
from tests.fixtures.runs import REPOSITORY

SCRIPT = REPOSITORY / "launchers" / "slurm" / "train.sbatch"


@pytest.fixture
def place(tmp_path):
    """A folder in which `srun` ends with the status in the file `status`."""
    programs = {
        "bin/srun": 'printf "%s\\n" "$MASTER_PORT" "$TRITON_CACHE_DIR" "$@" > srun.txt\nexit "$(cat status)"',
        "bin/scontrol": 'printf "%s\\n" "$@" > scontrol.txt',
    }
    for name, body in programs.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/bash\n{body}\n")
        path.chmod(0o755)
    return tmp_path


def submit(place, *overrides, status=0, **variables):
    """Exit status of the script, and what `srun` was given."""
    (place / "status").write_text(str(status))
    given = {
        "PATH": f"{place / 'bin'}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "45678",
        "USER": "u",
        "TMPDIR": "/scratch",
    }
    done = subprocess.run(
        ["bash", SCRIPT, "recipe.yaml", *overrides], cwd=place, env={**os.environ, **given, **variables},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    port, cache, *command = (place / "srun.txt").read_text().splitlines()
    assert port == str(20000 + 45678 % 20000)
    assert cache == "/scratch/triton-u"
    assert command[:5] == ["--kill-on-bad-exit=1", ".venv/bin/python", "launchers/train.py", "--recipe", "recipe.yaml"]
    return done.returncode, command[5:]


def requeued(place):
    return (place / "scontrol.txt").exists() and (place / "scontrol.txt").read_text().split() == ["requeue", "45678"]


def test_every_start_resumes_what_there_is(place):
    assert submit(place, "run.seed=3") == (0, ["--resume", "auto", "run.seed=3"])
    assert not requeued(place)


def test_one_that_was_asked_to_stop_goes_back_into_the_queue(place):
    assert submit(place, status=EXIT_PREEMPTED, SLURM_RESTART_COUNT="99")[0] == 0
    assert requeued(place)


@pytest.mark.parametrize("status", [2, 3])
def test_a_mistake_is_not_tried_again(place, status):
    assert submit(place, status=status)[0] == status
    assert not requeued(place)


def tried_again(place, status):
    """Whether a job that ends so goes back into the queue."""
    (place / "scontrol.txt").unlink(missing_ok=True)
    left = submit(place, status=status, SLURM_RESTART_COUNT="7")[0]
    assert left == (0 if requeued(place) else status)
    return requeued(place)


def test_a_crash_is_tried_again_but_not_for_ever(place):
    assert [tried_again(place, 137) for _ in range(3)] == [True, True, False]
    assert not list(place.glob(".crashes-*"))


def test_time_limits_are_no_crashes_and_crashes_are_counted_in_a_row(place):
    ends = [EXIT_PREEMPTED] * 3 + [137, 1, EXIT_PREEMPTED, 137, 137, 137]
    assert [tried_again(place, status) for status in ends] == [True] * 8 + [False]
