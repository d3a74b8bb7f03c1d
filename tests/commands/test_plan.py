"""`mtllm-ds plan` from the command line: tables, JSON and a picture from `config.json` alone."""

import json
import shutil
import subprocess
import sys

import pytest

from mtllm_ds.commands import run_command
from mtllm_ds.errors import UserError
from tests.fixtures.runs import REPOSITORY, make_run


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """A recipe whose models have no weights and no tokenizer, and whose data is not there."""
    folder = tmp_path_factory.mktemp("bare")
    path = make_run(folder)
    for side in ("mt", "llm"):
        config = (folder / side / "config.json").read_text(encoding="utf-8")
        shutil.rmtree(folder / side)
        (folder / side).mkdir()
        (folder / side / "config.json").write_text(config, encoding="utf-8")
    for split in ("train", "validation"):
        shutil.rmtree(folder / split)
    return path


def test_a_plan_in_words_figures_and_a_picture(recipe, tmp_path):
    out = tmp_path / "plan"
    done = subprocess.run(
        [
            sys.executable, "launchers/plan.py", "--recipe", str(recipe), "--nodes", "3", "--gpus-per-node", "2", "--gpu", "a100",
            "--llm-tokens", "20", "--compute-utilisation", "0.4", "--output", str(out),
        ],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    for part in (
        "llm tokens of a sample 20",
        "3 nodes of 2 a100",
        "40% of its products",
        "bottleneck:",
        "ZeRO-2",
        "no GPU was measured",
    ):
        assert part in done.stdout
    figures = json.loads((out / "plan.json").read_text(encoding="utf-8"))
    assert figures["assumed"]["compute_utilisation"] == 0.4
    assert figures["plan"]["num_gpus"] == 6
    assert figures["plan"]["samples_per_step"] == 12
    assert figures["plan"]["memory_bytes"]["together"] == sum(
        num_bytes for name, num_bytes in figures["plan"]["memory_bytes"].items() if name != "together"
    )
    assert [one["num_gpus"] for one in figures["scaling"]["as it is"]][::9] == [8, 4096]
    assert (out / "scaling.png").read_bytes().startswith(b"\x89PNG")


def test_a_measured_step_is_where_the_plan_begins(recipe, tmp_path, capsys):
    plan = ["plan", "--recipe", str(recipe), "--gpus-per-node", "2", "--output", str(tmp_path)]
    assert run_command([*plan, "--measured-step", "0.01", "--measured-gpus", "2"]) == 0
    assert "measured 0.01 s per step on 2 GPUs" in capsys.readouterr().out
    figures = json.loads((tmp_path / "plan.json").read_text(encoding="utf-8"))
    assert figures["plan"]["seconds"]["step"] == pytest.approx(0.01, rel=1e-4)
    assert figures["assumed"]["slowdown"] > 1


def test_mistakes_are_told_in_one_line(recipe, tmp_path):
    plan = ["plan", "--recipe", str(recipe)]
    with pytest.raises(UserError, match=r"data.lanes=6: fewer than the 8 GPUs; raise it or plan for fewer nodes"):
        run_command(plan)
    with pytest.raises(UserError, match=r"--compute-utilisation: '2' is no number above 0 and at most 1"):
        run_command([*plan, "--compute-utilisation", "2"])
    with pytest.raises(UserError, match=r"--measured-step: '-1' is no number of seconds above 0"):
        run_command([*plan, "--measured-step", "-1"])
    with pytest.raises(
        UserError, match=r"--measured-gpus=2: has no effect without --measured-step; give that or leave it out"
    ):
        run_command([*plan, "--measured-gpus", "2"])
    with pytest.raises(UserError, match=r"--encoder-tokens=65: more than model.encoder.max_length=64"):
        run_command([*plan, "--encoder-tokens", "65"])
    (tmp_path / "taken").write_text("")
    with pytest.raises(UserError, match=r"--output=.*taken: cannot be made \(File exists\); choose another folder"):
        run_command([*plan, "--gpus-per-node", "2", "--output", str(tmp_path / "taken")])
