"""Runs the backends' tests in Triton's interpreter, in a process of its own: the variable has to be set before any
kernel is defined, and breaks compilation in the process that sets it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from kernel_cases import interpreting

HERE = Path(__file__).parent


@pytest.mark.slow
@pytest.mark.skipif(interpreting(), reason="this is that process")
@pytest.mark.parametrize("module", ["test_linear_kl.py", "test_linear_kl_hard_inputs.py", "test_topk_kl.py"])
def test_in_the_interpreter(module: str) -> None:
    pytest.importorskip("triton")
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "pytest", "-W", "ignore", "--timeout", "300", str(HERE / module)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "passed" in done.stdout
