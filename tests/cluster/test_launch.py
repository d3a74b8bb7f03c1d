"""A rank learns its place from whichever launcher started it."""

import os
import socket
import subprocess
import sys

import pytest

from mtllm_ds.cluster.launch import _fill_environment, _first_host
from mtllm_ds.errors import UserError

NAMES = (
    "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT",
    "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_STEP_NODELIST", "SLURM_NODELIST",
    "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE",
)  # fmt: skip


@pytest.fixture
def environment(monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)

    def fill(**values):
        for name, value in values.items():
            monkeypatch.setenv(name, value)
        _fill_environment()
        found = {name: os.environ.get(name) for name in NAMES}
        for name in NAMES:  # what _fill_environment set itself, and monkeypatch would put back
            os.environ.pop(name, None)
        return found

    return fill


def test_alone(environment):
    found = environment()
    assert (found["RANK"], found["WORLD_SIZE"], found["LOCAL_RANK"], found["LOCAL_SIZE"]) == ("0", "1", "0", "1")


def test_torchrun(environment):
    found = environment(
        RANK="5", WORLD_SIZE="8", LOCAL_RANK="1", LOCAL_WORLD_SIZE="4", MASTER_ADDR="h", MASTER_PORT="1"
    )
    assert (found["RANK"], found["WORLD_SIZE"], found["LOCAL_RANK"], found["LOCAL_SIZE"]) == ("5", "8", "1", "4")
    assert (found["MASTER_ADDR"], found["MASTER_PORT"]) == ("h", "1")


def test_slurm(environment):
    found = environment(SLURM_PROCID="9", SLURM_NTASKS="16", SLURM_LOCALID="1", SLURM_STEP_NODELIST="gpu[03-04]")
    assert (found["RANK"], found["WORLD_SIZE"], found["LOCAL_RANK"]) == ("9", "16", "1")
    assert found["MASTER_ADDR"] == "gpu03"


def test_mpirun(environment):
    place = {"OMPI_COMM_WORLD_RANK": "9", "OMPI_COMM_WORLD_SIZE": "16", "OMPI_COMM_WORLD_LOCAL_RANK": "1"}
    found = environment(**place, OMPI_COMM_WORLD_LOCAL_SIZE="8", MASTER_ADDR="h")
    assert (found["RANK"], found["WORLD_SIZE"], found["LOCAL_RANK"], found["LOCAL_SIZE"]) == ("9", "16", "1", "8")
    with pytest.raises(UserError, match=r"MASTER_ADDR: mpirun tells no rank where rank 0 is; pass it on"):
        environment(**place, OMPI_COMM_WORLD_LOCAL_SIZE="8")


def test_a_single_task_under_slurm_runs_alone(environment):
    assert environment(SLURM_PROCID="0", SLURM_NTASKS="1")["WORLD_SIZE"] == "1"


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("gpu[03-05,09]", "gpu03"),
        ("a,b", "a"),
        ("single", "single"),
        ("n[7,9]", "n7"),
        ("", "127.0.0.1"),
        ("x1,y[2-3]", "x1"),
    ],
)
def test_first_host_of_a_node_list(nodes, first):
    assert _first_host(nodes) == first


def test_joining_compiles_nothing(tmp_path):
    # Beside a run that has the usual port, which must not matter to a process that is alone.
    code = "from mtllm_ds.cluster.launch import join_cluster, leave_cluster; join_cluster(); leave_cluster()"
    alone = {name: value for name, value in os.environ.items() if name not in NAMES}
    environment = alone | {"TORCH_EXTENSIONS_DIR": str(tmp_path), "DS_ACCELERATOR": "cpu"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, timeout=300)
    assert list(tmp_path.iterdir()) == []


def test_a_port_in_use_is_one_line():
    code = (
        "from mtllm_ds.cluster.launch import join_cluster\n"
        "from mtllm_ds.command_line import run_and_exit\n"
        "run_and_exit(join_cluster)"
    )
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        environment = {name: value for name, value in os.environ.items() if name not in NAMES}
        environment |= {"MASTER_PORT": str(taken.getsockname()[1]), "DS_ACCELERATOR": "cpu"}
        ended = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300
        )
    assert ended.returncode == UserError.exit_status
    assert "is in use" in ended.stderr
    assert "--master_port" in ended.stderr
    assert "Traceback" not in ended.stderr
