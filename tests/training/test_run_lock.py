"""Two process groups never train into one folder."""

import os
import subprocess
import sys

import pytest

from mtllm_ds.errors import UserError
from mtllm_ds.training.run_lock import hold_folder

HOLD = """
import sys, time
from pathlib import Path
from mtllm_ds.training.run_lock import hold_folder
lock = hold_folder(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def other_process(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "run")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_folder_in_use_is_refused_and_free_once_its_process_is_killed(tmp_path, other_process):
    with pytest.raises(UserError, match=r"run\.output_dir=.*another process is training there"):
        hold_folder(tmp_path / "run")
    other_process.kill()
    other_process.wait()
    hold_folder(tmp_path / "run").close()


def test_a_child_that_outlives_the_run_does_not_hold_it(tmp_path):
    # As a reader process does for a moment after its rank was killed.
    code = HOLD.replace(
        'print("held", flush=True)', "import os; os.fork() or time.sleep(60); print(os.getpid(), flush=True)"
    )
    rank = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "run")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert int(rank.stdout.readline()) == rank.pid
    rank.kill()
    rank.wait()
    try:
        hold_folder(tmp_path / "run").close()
    finally:
        children = subprocess.run(["pkill", "-KILL", "-f", str(tmp_path / "run")], check=False)
        assert children.returncode == 0, "the child was alive all along"
    assert os.path.exists(tmp_path / "run" / ".lock")
