"""A dry run of a run that goes on refuses what the run itself would be refused for, in the same line, and touches nothing."""

import hashlib
import json
import shutil

import pytest

from mtllm_ds.checkpoint.store import FORMAT
from mtllm_ds.cluster.launch import join_cluster
from mtllm_ds.commands.train import main
from mtllm_ds.errors import UserError
from mtllm_ds.preflight.resume import runs_to_make
from mtllm_ds.training.runs import run_seeds
from tests.distributed.ranks import RankError, ranks
from tests.fixtures.runs import build_data, make_run, settings_of, write_text

STEPS = 4
LAST = f"step_{STEPS:08d}"


def train(recipe, resume, overrides):
    """On a rank of a pool."""
    return run_seeds(settings_of(recipe, **overrides), join_cluster(), resume)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """Of a run that has made its steps."""
    folder = tmp_path_factory.mktemp("going_on")
    recipe = make_run(folder)
    assert ranks(1).run(train, recipe, False, {"run__max_steps": STEPS, "run__save_every": 2}) == [0]
    build_data(folder / "other", write_text(folder / "other.jsonl", 80, 5), folder / "mt", folder / "llm")
    return recipe


@pytest.fixture
def run(recipe, tmp_path):
    """A copy of its folder."""
    return shutil.copytree(recipe.parent / "run", tmp_path / "run")


def dry_run(recipe, resume, overrides):
    words = [f"{key.replace('__', '.')}={value}" for key, value in overrides.items()]
    return main(["--recipe", str(recipe), "--dry-run", *(["--resume"] if resume else []), *words])


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_what_may_change_is_told_and_nothing_is_touched(recipe, run, capsys):
    before = contents(run)
    assert dry_run(recipe, True, {"run__max_steps": 9, "run__output_dir": run}) == 0
    said = capsys.readouterr().out
    assert f"resumes     after step {STEPS}" in said
    assert f"--resume: run.max_steps=9, but the run had {STEPS}" in said
    assert contents(run) == before


REFUSED = {
    "a fresh run": (False, {}, f"holds a run of {STEPS} steps; add --resume"),
    "a method": (True, {"model__lora__rank": 3}, "--resume: model.lora.rank=3, but the run was started with 2"),
    "a seed": (True, {"run__seed": 5}, "--resume: run.seed=5, but the run was started with 0"),
    "fewer steps": (True, {"run__max_steps": 3}, f"run.max_steps=3, but the run has made {STEPS} steps"),
    "other data": (True, {"data__train": "other"}, "the checkpoint was made on another data set"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_may_not_change_is_refused_as_the_run_itself_would(recipe, run, name):
    resume, changes, told = REFUSED[name]
    changes = {"run__max_steps": 8, "run__output_dir": str(run), **changes}
    if "data__train" in changes:
        changes["data__train"] = str(recipe.parent / changes["data__train"])
    before = contents(run)
    with pytest.raises(UserError) as caught:
        dry_run(recipe, resume, changes)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
    assert contents(run) == before
    with pytest.raises(RankError) as real:
        ranks(1).run(train, recipe, resume, changes)
    assert real.value.errors[0][:2] == ("UserError", str(caught.value))


@pytest.mark.parametrize(
    ("file", "told"),
    [
        (f"{LAST}/trainable.safetensors", "trainable.safetensors is damaged"),
        (f"{LAST}/moments.safetensors", "moments.safetensors is damaged"),
        (f"{LAST}/state.json", "state.json is damaged"),
        ("best.json", "best.json: damaged"),
    ],
)
def test_what_is_damaged_is_told(recipe, run, file, told):
    path = run / "checkpoints" / file
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=told):
        dry_run(recipe, True, {"run__output_dir": run})


def test_a_run_that_has_saved_nothing_cannot_go_on(recipe, tmp_path):
    with pytest.raises(UserError, match="no checkpoint in"):
        dry_run(recipe, True, {"run__output_dir": tmp_path / "empty"})


def test_of_several_seeds_each_is_begun_gone_on_with_or_finished(recipe, tmp_path, capsys):
    settings = settings_of(recipe, run__seeds="[1,2,3]", run__output_dir=tmp_path, run__max_steps=4)

    def save(seed, step, **history):
        folder = tmp_path / f"seed-{seed}" / "checkpoints" / f"step_{step:08d}"
        folder.mkdir(parents=True, exist_ok=True)
        content = {"format": FORMAT, "history": history}
        stated = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        (folder / "state.json").write_text(json.dumps({**content, "sha256": stated}))

    save(1, 4, validation_due=True)  # stopped in its last validation
    assert (runs_to_make(settings, True)[0][0].run.seed, len(runs_to_make(settings, True))) == (1, 3)
    save(1, 4)
    save(2, 2)
    assert [(run.run.seed, goes_on) for run, goes_on in runs_to_make(settings, True)] == [(2, True), (3, False)]
    assert [(run.run.seed, goes_on) for run, goes_on in runs_to_make(settings, False)] == [
        (1, False),
        (2, False),
        (3, False),
    ]
    assert dry_run(recipe, True, {"run__seeds": "[1]", "run__output_dir": tmp_path, "run__max_steps": 4}) == 0
    assert capsys.readouterr().out == "every seed is finished; nothing is left to train\n"
