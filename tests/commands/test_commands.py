"""Every way to a command leads to the same code; what does not exist is one line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import mtllm_ds
from mtllm_ds.command_line import Parser
from mtllm_ds.commands import COMMANDS, run_command
from mtllm_ds.config.shipped import KINDS
from mtllm_ds.errors import UserError
from tests.fixtures.runs import REPOSITORY

BIN = Path(sys.executable).parent
PRINT = ("--recipe", "demo", "--print-config")


def launch(command, folder):
    environment = {
        **os.environ,
        "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'kernels'}",
        "PATH": f"{BIN}:{os.environ['PATH']}",
    }
    return subprocess.run(
        [str(part) for part in command], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )


PORT = 30100 + os.getpid() % 500
WAYS = {
    "module": [sys.executable, "-m", "mtllm_ds", "train", *PRINT],
    "launcher": [sys.executable, REPOSITORY / "launchers" / "train.py", *PRINT],
    "deepspeed": [BIN / "deepspeed", "--num_gpus", 1, "--master_port", PORT, "--module", "mtllm_ds", "train", *PRINT],
    "deepspeed launcher": [
        BIN / "deepspeed", "--num_gpus", 1, "--master_port", PORT + 1, REPOSITORY / "launchers" / "train.py", *PRINT,
    ],
    "torchrun": [BIN / "torchrun", "--master-port", PORT + 2, "-m", "mtllm_ds", "train", *PRINT],
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_every_way_leads_to_the_same_code_from_any_folder(way, tmp_path, capsys):
    done = launch(WAYS[way], tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert run_command(["train", *PRINT]) == 0
    expected = capsys.readouterr().out
    assert expected.startswith("run:\n  output_dir: runs/demo\n")
    assert expected.replace("name: assets/", f"name: {REPOSITORY}/assets/") in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_help_and_hostile_arguments(command, capsys):
    with pytest.raises(SystemExit) as caught:
        run_command([command, "--help"])
    assert caught.value.code == 0
    assert f"usage: mtllm-ds {command}" in capsys.readouterr().out
    for arguments in (["--nonsense"], ["\n"], ["--recipe"], ["--output"], ["--world-size", "x"], ["--seed", "\u202e"]):
        with pytest.raises(UserError) as refused:
            run_command([command, *arguments])
        assert "\n" not in str(refused.value)
        assert str(refused.value).startswith(f"mtllm-ds {command}")
        assert refused.value.exit_status == 2


def test_what_there_is(capsys):
    assert run_command(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in COMMANDS)
    assert run_command([]) == 2
    assert capsys.readouterr().out == shown
    assert run_command(["--version"]) == 0
    assert capsys.readouterr().out == f"mtllm-ds {mtllm_ds.__version__}\n"
    assert run_command(["list"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for kind in KINDS for name in kind.names)
    assert "Stage 1 of MT-LLM (arXiv 2406.12739)" in shown
    assert "ZeRO stage 3, parameters on the CPU, optimizer on the CPU" in shown


@pytest.mark.parametrize(
    ("given", "meant"), [("trian", "train"), ("", "list"), ("--recipe", "prepare"), ("\nlist", "list")]
)
def test_an_unknown_command_is_one_line(given, meant):
    with pytest.raises(UserError, match="no such command") as caught:
        run_command([given])
    assert "\n" not in str(caught.value)


def test_a_process_prints_one_line_and_ends_with_status_2(tmp_path):
    done = launch([sys.executable, "-m", "mtllm_ds", "train", "--recipe", "demo", "--world-size", "x"], tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: mtllm-ds train: argument --world-size: 'x' is no whole number of at least 1; see --help\n"
    )


def test_a_reader_that_leaves_early_is_no_failure_to_report(tmp_path):
    command = f"set -o pipefail; {sys.executable} -u -m mtllm_ds list | true"
    done = launch(["bash", "-c", command], tmp_path)
    assert (done.returncode, done.stderr) == (141, "")


def test_mistakes_of_argparse_stay_on_one_line():
    with pytest.raises(UserError) as caught:
        Parser(prog="p").parse_args(["a\nb"])
    assert str(caught.value) == "p: unrecognized arguments: a b; see --help"
