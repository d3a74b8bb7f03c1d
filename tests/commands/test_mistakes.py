"""Every mistake a user can make on the command line: one clear line, exit status 2, earlier outputs untouched."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures.models import save_llama
from tests.fixtures.runs import REPOSITORY, make_run

TRAIN, PREPARE, EXPORT = (f"launchers/{name}.py" for name in ("train", "prepare", "export"))


def launch(*arguments, status):
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == status, done.stdout + done.stderr
    return done


def refused(*arguments):
    """The one line that a mistake prints."""
    done = launch(*arguments, status=2)
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    return lines[0]


def contents(folder):
    return {str(path): path.read_bytes() for path in sorted(Path(folder).rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run of two steps, never changed by a test."""
    recipe = make_run(tmp_path_factory.mktemp("mistakes"))
    launch(TRAIN, "--recipe", recipe, "run.max_steps=2", "run.save_every=1", status=0)
    return recipe


@pytest.fixture
def run(trained, tmp_path):
    """A copy of the finished run whose data may be damaged."""
    for name in ("run", "train", "validation"):
        shutil.copytree(trained.parent / name, tmp_path / name)
    return tmp_path


def train_on(trained, run, *overrides):
    return (TRAIN, "--recipe", trained, f"data.train={run / 'train'}", f"run.output_dir={run / 'fresh'}", *overrides)


def shard_of(run):
    return next(iter(sorted((run / "train").glob("*.tar"))))


def prepare(run, trained, text, *more, language="eng_Latn", output="prepared"):
    models = ("--encoder", trained.parent / "mt", "--llm", trained.parent / "llm")
    return (PREPARE, "shards", "--input", text, "--language", language, *models, "--output", run / output, *more)


def test_a_wrong_tag(run, trained):
    before = contents(run)
    line = refused(*prepare(run, trained, trained.parent / "train.jsonl", language="ell_Latn"))
    assert "'ell_Latn'" in line
    assert "'ell_Grek'" in line
    assert contents(run) == before


def test_an_empty_file(run, trained):
    empty = run / "empty.jsonl"
    empty.touch()
    before = contents(run)
    assert "empty.jsonl" in refused(*prepare(run, trained, empty))
    assert contents(run) == before


def test_a_missing_shard(run, trained):
    shard_of(run).unlink()
    before = contents(run)
    line = refused(*train_on(trained, run))
    assert "shard" in line
    assert "is missing" in line
    assert contents(run) == before


def test_a_truncated_shard(run, trained):
    shard = shard_of(run)
    shard.write_bytes(shard.read_bytes()[:-700])
    before = contents(run)
    line = refused(*train_on(trained, run))
    assert shard.name in line
    assert "bytes instead of" in line
    assert contents(run) == before


def test_a_shard_changed_by_one_byte(run, trained):
    shard = shard_of(run)
    data = bytearray(shard.read_bytes())
    data[700] ^= 1
    shard.write_bytes(data)
    saved = contents(run / "run")
    line = refused(*train_on(trained, run))
    assert shard.name in line
    assert "byte" in line
    assert contents(run / "run") == saved
    line = refused(*train_on(trained, run), "--dry-run")
    assert shard.name in line


def test_a_tokenizer_that_does_not_match_the_manifest(run, trained):
    other = save_llama(run / "other")
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    a, b = sorted(vocabulary, key=vocabulary.get)[-2:]
    vocabulary[a], vocabulary[b] = vocabulary[b], vocabulary[a]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    before = contents(run)
    line = refused(*train_on(trained, run, f"model.llm.name={other}"))
    assert "llm's tokenizer" in line
    assert "not the one the shards" in line
    assert contents(run) == before


def test_an_encoder_model_without_an_encoder(run, trained):
    before = contents(run)
    line = refused(*train_on(trained, run, f"model.encoder.name={trained.parent / 'llm'}"))
    assert "has no encoder" in line
    assert contents(run) == before


@pytest.mark.parametrize("file", ["trainable.safetensors", "moments.safetensors", "state.json"])
def test_a_damaged_checkpoint(run, trained, file):
    damaged = run / "run" / "checkpoints" / "step_00000002" / file
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 255
    damaged.write_bytes(data)
    before = contents(run)
    line = refused(TRAIN, "--recipe", trained, "--resume", f"run.output_dir={run / 'run'}", "run.max_steps=3")
    assert "step_00000002" in line
    assert "damaged" in line
    assert "damaged" in refused(EXPORT, run / "run", run / "export", "--step", "2")
    assert contents(run) == before


def test_a_finished_run_is_not_overwritten(run, trained):
    before = contents(run)
    line = refused(TRAIN, "--recipe", trained, f"run.output_dir={run / 'run'}")
    assert "--resume" in line
    assert contents(run) == before


def test_an_unknown_setting(trained):
    line = refused(TRAIN, "--recipe", trained, "--print-config", "optim.learning_rat=1")
    assert "'optim.learning_rate'" in line


def test_dry_run_checks_and_touches_nothing(run, trained):
    before = contents(run)
    done = launch(*train_on(trained, run), "--dry-run", "--world-size", "4", status=0)
    assert "all checks passed" in done.stdout
    assert '"auto"' not in done.stdout
    assert "on 4 ranks" in done.stdout
    assert contents(run) == before


def test_print_config_shows_every_setting(trained):
    done = launch(TRAIN, "--recipe", trained, "--print-config", "optim.learning_rate=3e-3", status=0)
    assert "learning_rate: 0.003" in done.stdout
    assert "weight_decay: 0.01" in done.stdout
