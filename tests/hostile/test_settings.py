"""Settings as they come: recipes, overrides, DeepSpeed files, output folders. Each mistake is one line, told by `--dry-run` too."""

import json
import os

import pytest

from mtllm_ds.config.load import load_settings
from mtllm_ds.errors import UserError
from mtllm_ds.preflight.plan import check_run
from mtllm_ds.training.run_lock import hold_folder
from tests.fixtures.runs import REPOSITORY, make_run, settings_of

RECIPES = {
    "a list": (b"[1, 2]", "found a list"),
    "a number": (b"42", "int"),
    "a text": (b"hello", "missing key 'run'"),
    "nothing": (b"", "missing key 'run'"),
    "null": (b"null", "missing key 'run'"),
    "not UTF-8": ("run: {output_dir: Größe}".encode("latin-1"), "utf-8"),
    "all bytes": (bytes(range(256)), "utf-8"),
    "NUL": (b"run: \0", "control characters"),
    "deep": ("\n".join(" " * i + "a:" for i in range(1500)).encode(), "nested too deeply"),
    "a call": (b"!!python/object/apply:os.system ['true']", "tag"),
    "an endless alias": (b"a: &a [*a]", "recursive"),
    "a key twice": (b"run: {}\nrun: {}", "duplicate key run"),
    "a missing value": (b"run: {output_dir: '???'}", "output_dir"),
    "no such reference": (b"run: {output_dir: '${nope}'}", "nope"),
    "bytes for a text": (b"run: {output_dir: !!binary abcd, max_steps: 1}", "output_dir"),
    "a tab": (b"run:\n\tmax_steps: 1", "token"),
}

OVERRIDES = {
    "data.train=": "data.train",
    "data.train=''": "data.train",
    "data.validation=''": "data.validation",
    "run.output_dir=": "run.output_dir",
    "run.output_dir=''": "run.output_dir",
    "run.output_dir=???": "a value that is missing",
    "run.output_dir=${oc.env:NO_SUCH_VARIABLE}": "NO_SUCH_VARIABLE",
    "run.output_dir={a: b}": "run.output_dir",
    "run.max_steps=true": "true or false",
    "run.save_every=true": "true or false",
    "optim.learning_rate=true": "true or false",
    "run.max_steps=99999999999999999999": "less than",
    "run.seed=1180591620717411303424": "less than",
    "run.seeds=[1180591620717411303424]": "less than",
    "run.seeds=[-1]": "greater than",
    "run.seeds=[]": "at least one seed",
    "run.seeds=[1,1]": "each once",
    "optim.betas=[2,3]": "less than 1",
    "optim.betas=[0.9]": "optim.betas",
    "optim.eps=.inf": "finite",
    "optim.learning_rate=.inf": "finite",
    "optim.learning_rate=.nan": "finite",
    "optim.learning_rate=1e400": "finite",
    "data.mixing.weights={eng_Latn: .inf}": "finite",
    "model.lora.rank=1000000000": "less than",
    "data.lanes=100000000": "less than",
    "data.queue_size=1000000000": "less than",
    "data.cells_per_forward=1000000000": "less than",
    "model.llm.name=": "model.llm.name",
    "model.llm.name=[a]": "model.llm.name",
    "objective=simcse": "objective",
    "objective.name=": "name of an objective",
    "objective.name=os:getcwd": "no subclass",
    "objective.name=no_such_module:Thing": "cannot be imported",
    "run=5": "run",
    "run=[]": "merge",
    "run.log_every=[": "overrides",
    "a..b=1": "unknown key",
    "=1": "unknown key",
    "model=null": "model",
}

DEEPSPEED = {
    "a list": ("[]", "found a list"),
    "a text": ('"zero3"', "found a text"),
    "null": ("null", "found null"),
    "a number": ("3", "found a number"),
    "nothing": ("", "not JSON"),
    "deep": ("[" * 100_000, "nested too deeply"),
    "not JSON": ("{stage: 3}", "not JSON"),
    "a list for a section": ('{"zero_optimization": []}', "zero_optimization: expected keys and values"),
    "an unknown key": (
        '{"zero_optimisation": {"stage": 3}, "zero_optimization": {"stage": 3}}',
        "unknown key 'zero_optimisation'; nearest valid key: 'zero_optimization'",
    ),
    "an unknown key inside": (
        '{"zero_optimization": {"stage": 3, "stage3_max_live_parameter": 1}}',
        "nearest valid key: 'zero_optimization.stage3_max_live_parameters'",
    ),
    "a text for a number": (
        '{"zero_optimization": {"stage": 3, "stage3_max_live_parameters": "many"}}',
        "stage3_max_live_parameters='many'",
    ),
    "a negative number": (
        '{"zero_optimization": {"stage": 3, "stage3_max_reuse_distance": -1}}',
        "stage3_max_reuse_distance=-1",
    ),
    "a list for a stage": ('{"zero_optimization": {"stage": [3]}}', "this project runs stages 2 and 3"),
    "an unknown device": (
        '{"zero_optimization": {"stage": 3, "offload_param": {"device": "tape"}}}',
        "offload_param.device='tape'",
    ),
    "an unknown key of bf16": ('{"zero_optimization": {"stage": 3}, "bf16": {"enable": false}}', "'bf16.enabled'"),
    "copies of no ranks": (
        '{"zero_optimization": {"stage": 3, "zero_hpz_partition_size": 0}}',
        "zero_hpz_partition_size=0",
    ),
}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("settings"))


def refused(work, *words):
    with pytest.raises(UserError) as raised:
        work()
    line = str(raised.value)
    assert len(line.splitlines()) == 1
    assert len(line) < 1500
    for word in words:
        assert word in line
    return line


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_that_is_none(tmp_path, name):
    content, words = RECIPES[name]
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    assert str(path) in refused(lambda: load_settings(path), words)


@pytest.mark.parametrize("override", OVERRIDES)
def test_an_override_that_makes_no_sense(recipe, override):
    refused(lambda: load_settings(recipe, [override]), OVERRIDES[override])


@pytest.mark.parametrize("name", DEEPSPEED)
def test_a_deepspeed_file_that_is_none(recipe, tmp_path, name):
    content, words = DEEPSPEED[name]
    path = tmp_path / "ds.json"
    path.write_text(content)
    settings = settings_of(recipe, training__deepspeed=path)
    assert str(path) in refused(lambda: check_run(settings, 2), words)


def test_a_deepspeed_file_that_is_not_utf8(recipe, tmp_path):
    path = tmp_path / "ds.json"
    path.write_bytes(b'{"zero_optimization": {"stage": 3, "a": "\xff"}}')
    refused(lambda: check_run(settings_of(recipe, training__deepspeed=path), 2), "not JSON", "utf-8")


def test_what_ships_is_known_and_stays_as_it_is(recipe):
    for path in (REPOSITORY / "ds_configs").glob("*.json"):
        plan = check_run(settings_of(recipe, training__deepspeed=path), 2)
        assert set(json.loads(path.read_text())) <= set(plan.ds_config)


def output_folders(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    return {
        str(file): "is a file",
        str(file / "below"): "is a file",
        str(tmp_path / ("x" * 300)): "cannot be written",
        str(tmp_path / "nul\0"): "cannot be written",
    }


def test_output_folders_that_cannot_be_are_told_by_a_dry_run(recipe, tmp_path):
    for place, words in output_folders(tmp_path).items():
        settings = settings_of(recipe)
        settings = settings.model_copy(update={"run": settings.run.model_copy(update={"output_dir": place})})
        refused(lambda chosen=settings: check_run(chosen, 2), "run.output_dir=", words)
    whole = check_run(settings_of(recipe, run__output_dir=tmp_path / "new" / "deeper"), 2)
    assert whole.settings.run.output_dir
    assert not (tmp_path / "new").exists()


def test_a_folder_that_may_not_be_written(recipe, tmp_path, monkeypatch):
    closed = tmp_path / "closed"
    closed.mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != str(closed))
    refused(lambda: check_run(settings_of(recipe, run__output_dir=closed / "run"), 2), "may not be written")
    refused(lambda: hold_folder(tmp_path / ("x" * 300)), "run.output_dir=", "cannot be written")
