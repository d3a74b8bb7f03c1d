"""Pull the plug on a real two-rank run under the deepspeed launcher: politely, and by killing a rank."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mtllm_ds.training.preemption import EXIT_PREEMPTED
from tests.fixtures.runs import REPOSITORY, losses_of, make_run, settings_of

STEPS = 24
DEADLINE_SECONDS = 240


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("interrupted"))


def overrides(recipe, name):
    return [
        f"run.output_dir={recipe.parent / name}",
        f"run.max_steps={STEPS}",
        "run.save_every=5",
        "run.validate_every=50",
    ]


def start(recipe, name, *more):
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    command = ["deepspeed", "--num_gpus", "2", "--master_port", str(29600 + os.getpid() % 300), "launchers/train.py"]
    return subprocess.Popen(
        [*command, "--recipe", str(recipe), *more, *overrides(recipe, name)], cwd=REPOSITORY, env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def wait_for_step(recipe, name, step, process):
    """Poll until the run has logged `step`."""
    metrics = recipe.parent / name / "metrics.jsonl"
    deadline = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if metrics.is_file():
            lines = metrics.read_text().splitlines()
            if len(lines) >= step and json.loads(lines[step - 1])["step"] >= step:
                return
        time.sleep(0.05)
    pytest.fail(f"no step {step}: {process.communicate()[0]}")


def ranks_of(launcher):
    """Process ids of the training ranks below a launcher."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            command = (folder / "cmdline").read_bytes().decode()
            parents = (folder / "status").read_text()
        except OSError:
            continue
        session = os.getsid(int(folder.name)) if "launchers/train.py" in command and "--local_rank" in command else None
        if session == os.getsid(launcher.pid) and "PPid" in parents:
            found.append(int(folder.name))
    return found


def finish(process):
    output, _ = process.communicate(timeout=DEADLINE_SECONDS)
    return process.returncode, output


@pytest.fixture(scope="module")
def truth(recipe):
    """Losses of the same run, never interrupted."""
    status, output = finish(start(recipe, "whole"))
    assert status == 0, output
    return losses_of(settings_of(recipe, run__output_dir=recipe.parent / "whole"))


def resumed_losses(recipe, name):
    status, output = finish(start(recipe, name, "--resume"))
    assert status == 0, output
    return losses_of(settings_of(recipe, run__output_dir=recipe.parent / name))


def test_sigterm_saves_and_the_run_goes_on(recipe, truth):
    process = start(recipe, "asked")
    wait_for_step(recipe, "asked", 7, process)
    for pid in ranks_of(process):
        os.kill(pid, signal.SIGTERM)
    status, output = finish(process)
    assert status == EXIT_PREEMPTED, output
    assert "go on with --resume" in output
    saved = max(int(path.name[5:]) for path in (recipe.parent / "asked" / "checkpoints").glob("step_*"))
    assert 7 <= saved == max(losses_of(settings_of(recipe, run__output_dir=recipe.parent / "asked")))
    assert resumed_losses(recipe, "asked") == pytest.approx(truth, rel=1e-6)


def test_a_killed_rank_loses_no_more_than_the_last_checkpoint(recipe, truth):
    process = start(recipe, "killed")
    wait_for_step(recipe, "killed", 12, process)
    os.kill(ranks_of(process)[-1], signal.SIGKILL)
    status, _ = finish(process)
    assert status != 0
    found = resumed_losses(recipe, "killed")
    assert sorted(found) == list(range(1, STEPS + 1))
    assert found == pytest.approx(truth, rel=1e-6)
