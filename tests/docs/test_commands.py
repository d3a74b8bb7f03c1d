"""The pages' commands and Python, as they stand, in one folder that was empty: what a page makes, later ones use."""

import json
import os
import runpy
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.docs.blocks import REPOSITORY, blocks_of, pages

pytestmark = pytest.mark.slow
PAGES = [
    page for page in pages() if any(block.kind != "not run" and block.language != "text" for block in blocks_of(page))
]
EXAMPLES = {
    "encode_and_retrieve": "my_model",
    "classify_in_many_languages": "my_classifier",
    "fused_loss_in_your_loop": None,
}


class Shell:
    """A user's shell with the environment on its path."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "work"
        self.folder.mkdir()
        bin_folder = folder / "bin"
        bin_folder.mkdir()
        # The one thing that is not as written: a port that no other test takes.
        real = Path(sysconfig.get_path("scripts")) / "deepspeed"
        port = 29700 + os.getpid() % 250
        (bin_folder / "deepspeed").write_text(f'#!/bin/sh\nexec {sys.executable} {real} --master_port {port} "$@"\n')
        (bin_folder / "deepspeed").chmod(0o755)
        self.environment = os.environ | {
            "PATH": f"{bin_folder}:{sysconfig.get_path('scripts')}:{os.environ['PATH']}",
            "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'kernels'}",
            "COLUMNS": "120",
        }

    def run(self, code: str, place: str) -> str:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", code],
            cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=500,
        )  # fmt: skip
        assert done.returncode == 0, f"{place}\n{done.stdout}{done.stderr}"
        return done.stdout


@pytest.fixture(scope="module")
def shell(tmp_path_factory):
    return Shell(tmp_path_factory.mktemp("docs"))


@pytest.mark.parametrize("page", PAGES)
def test_a_page_does_what_it_says(page, shell, monkeypatch):
    monkeypatch.chdir(shell.folder)
    names = {}
    for block in blocks_of(page):
        if block.kind == "file":
            path = shell.folder / block.said
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.code, encoding="utf-8")
        elif block.kind is None and block.language == "bash":
            shell.run(block.code, block.place)
        elif block.kind is None and block.language == "python":
            exec(compile(block.code, block.place, "exec"), names)


def test_the_made_up_objective_trained(shell):
    """`docs/extending.md`: settings, objective and recipe in one folder train by the ordinary command, with no edit elsewhere."""
    lines = (shell.folder / "runs" / "cosine" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3]
    assert -1 <= rows[-1]["eval_cosine"] <= 1
    assert (shell.folder / "runs" / "shrunk" / "checkpoints" / "step_00000001").is_dir()


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs(name, shell, monkeypatch, capsys):
    monkeypatch.chdir(shell.folder)
    script = str(REPOSITORY / "examples" / f"{name}.py")
    monkeypatch.setattr(sys, "argv", [script, *([EXAMPLES[name]] if EXAMPLES[name] else [])])
    runpy.run_path(script, run_name="__main__")
    assert capsys.readouterr().out.strip()


def test_every_example_is_run():
    assert {path.stem for path in (REPOSITORY / "examples").glob("*.py")} == set(EXAMPLES)
