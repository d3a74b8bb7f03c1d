"""What `--dry-run`, `--only` and a second start do, the same in every benchmark in steps."""

import argparse
import sys

import pytest

from benchmarks.step_options import add_step_options, take_steps
from benchmarks.steps import Step
from mtllm_ds.errors import UserError


def given(*arguments):
    parser = argparse.ArgumentParser()
    parser.add_argument("--text", default="texts")
    add_step_options(parser, "benchmark", precision="bf16")
    return parser.parse_args(arguments)


def steps_that_touch(folder):
    """Each leaves a file with the number of its threads."""
    write = "import os, sys; open(sys.argv[1], 'w').write(os.environ['OMP_NUM_THREADS'])"
    return [Step(name, [[sys.executable, "-c", write, str(folder / f"{name}.txt")]]) for name in ("a", "b")]


def test_a_dry_run_does_nothing_and_asks_nothing(tmp_path, capsys):
    def check():
        raise AssertionError("asked")

    steps = steps_that_touch(tmp_path)
    assert take_steps(given("--dry-run"), tmp_path / "run", steps, {}, num_jobs=1, check=check) is None
    assert not (tmp_path / "run").exists()
    assert "2 steps, about" in capsys.readouterr().out


def test_what_is_left_is_done_another_time_with_the_same_settings_alone(tmp_path):
    steps, root = steps_that_touch(tmp_path), tmp_path / "run"
    left = take_steps(given("--only", "a"), root, steps, {"size": 1}, num_jobs=1, num_threads=3, more={"kind": 1})
    assert [step.name for step in left] == ["b"]
    assert (tmp_path / "a.txt").read_text() == "3"
    for other in (given("--precision", "fp32"), given("--text", "others")):
        with pytest.raises(UserError, match="begun with other settings"):
            take_steps(other, root, steps, {"size": 1}, num_jobs=1)
    with pytest.raises(UserError, match=r"begun with other settings \(budget\)"):
        take_steps(given(), root, steps, {"size": 2}, num_jobs=1)
    with pytest.raises(UserError, match=r"begun with other settings \(kind\)"):
        take_steps(given(), root, steps, {"size": 1}, num_jobs=1, more={"kind": 2})
    assert not (tmp_path / "b.txt").exists()
    assert take_steps(given(), root, steps, {"size": 1}, num_jobs=1) == []
    assert (tmp_path / "b.txt").exists()


def test_what_a_run_lacks_is_told_before_its_first_step(tmp_path):
    def check():
        raise UserError("TEXT=x: lacks a language; give it")

    with pytest.raises(UserError, match="lacks a language"):
        take_steps(given(), tmp_path / "run", steps_that_touch(tmp_path), {}, num_jobs=1, check=check)
    assert not (tmp_path / "a.txt").exists()
