"""A run on models of the hub stays at the commits it began with, whatever is pushed there later; so does what it saves."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from mtllm_ds import MTLLM
from mtllm_ds.checkpoint.export import export_run
from mtllm_ds.checkpoint.store import checkpoint_folders, read_state
from mtllm_ds.cluster.launch import join_cluster
from mtllm_ds.errors import UserError
from mtllm_ds.preflight.hub_models import held
from mtllm_ds.preflight.plan import check_run, describe_plan
from mtllm_ds.preflight.resume import check_whole_run
from mtllm_ds.preflight.start import _is_same
from mtllm_ds.training.runs import run_seeds
from tests.distributed.ranks import ranks
from tests.fixtures.hub import hub_at, push
from tests.fixtures.models import save_llama, save_mt_model
from tests.fixtures.runs import losses_of, make_run, settings_of

FIRST, LATER = "a" * 40, "b" * 40
NAMES = {"encoder": "someone/mt", "llm": "someone/llm"}
TEXTS = ["The dialog sets the options.", "Select the cells."]


def train(recipe, cache, overrides, resume):
    """On a rank of a pool."""
    with hub_at(cache):
        return run_seeds(settings_of(recipe, **overrides), join_cluster(), resume)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """A recipe that names models of the hub at no revision; `local.yaml` beside it names the same models in folders."""
    folder = tmp_path_factory.mktemp("hub_models")
    local = make_run(folder)
    content = yaml.safe_load(local.read_text())
    local.rename(folder / "local.yaml")
    for side, name in NAMES.items():
        push(folder / "hub", name, folder / name.split("/")[1], FIRST)
        content["model"][side]["name"] = name
    (folder / "hub.yaml").write_text(yaml.safe_dump(content))
    return folder / "hub.yaml"


@pytest.fixture(scope="module")
def moved_on(recipe):
    """The run's settings: its first half on the first commits and, when other weights had been pushed, its second half."""
    hub = recipe.parent / "hub"
    assert ranks(1).run(train, recipe, hub, {"run__max_steps": "4"}, False) == [0]
    push(hub, NAMES["llm"], save_llama(recipe.parent / "other_llm", seed=9), LATER)
    push(hub, NAMES["encoder"], save_mt_model(recipe.parent / "other_mt", seed=9), LATER)
    assert ranks(1).run(train, recipe, hub, {}, True) == [0]
    return settings_of(recipe)


@pytest.fixture(scope="module")
def local(recipe):
    """The same run in the same halves on the folders."""
    twin = recipe.parent / "local.yaml"
    overrides = {"run__output_dir": str(recipe.parent / "local_run")}
    for more, resume in (({"run__max_steps": "4"}, False), ({}, True)):
        assert ranks(1).run(train, twin, recipe.parent / "nowhere", overrides | more, resume) == [0]
    return settings_of(twin, **overrides)


def newest_state(settings):
    folders = checkpoint_folders(Path(settings.run.output_dir) / "checkpoints")
    return read_state(folders[max(folders)])


def test_a_run_goes_on_from_the_commits_it_began_with(moved_on, local):
    assert losses_of(moved_on) == pytest.approx(losses_of(local), rel=1e-6)
    assert len(losses_of(moved_on)) == 8
    state = newest_state(moved_on)
    assert {base["revision"] for base in state.bases.values()} == {FIRST}
    assert {state.settings["model"][side]["revision"] for side in NAMES} == {FIRST}


def test_a_fresh_run_takes_the_newest_commit(recipe, moved_on):
    with hub_at(recipe.parent / "hub"):
        plan = held(check_run(settings_of(recipe, run__output_dir=str(recipe.parent / "fresh")), 1))
        assert {base["fingerprint"] for base in plan.bases.values()} == {f"hub:{LATER}"}
        where = {"model__start": moved_on.run.output_dir, "run__output_dir": str(recipe.parent / "fresh")}
        with pytest.raises(
            UserError, match=rf"encoder \(someone/mt at {FIRST}\); set model.encoder.name and .revision"
        ):
            check_run(settings_of(recipe, **where), 1)
        pinned = {f"model__{side}__revision": FIRST for side in NAMES}
        assert check_run(settings_of(recipe, **where, **pinned), 1).start is not None


def test_a_copy_of_a_hub_model_goes_on_for_it(recipe, moved_on, local):
    """A commit of the hub and a folder are the same model if their weight files are: to go on with, and to start from."""
    folders, hub, other = recipe.parent / "local.yaml", recipe.parent / "hub", recipe.parent / "other_llm"
    where = {"run__output_dir": moved_on.run.output_dir}
    plan = check_whole_run(settings_of(folders, **where), 1, newest_state(moved_on))
    assert {base["fingerprint"][:7] for base in plan.bases.values()} == {"sha256:"}
    with pytest.raises(UserError, match=r"--resume: model\.llm\.name=.*other_llm holds other weights"):
        check_whole_run(settings_of(folders, **where, model__llm__name=other), 1, newest_state(moved_on))
    start = {"model__start": moved_on.run.output_dir, "run__output_dir": recipe.parent / "fresh"}
    assert check_run(settings_of(folders, **start), 1).start is not None
    with pytest.raises(UserError, match=r"trained on another llm \(someone/llm at a+\)"):
        check_run(settings_of(folders, **start, model__llm__name=other), 1)
    where = {"run__output_dir": local.run.output_dir}
    with hub_at(hub):  # and the other way round
        pinned = {f"model__{side}__revision": FIRST for side in NAMES}
        check_whole_run(settings_of(recipe, **where, **pinned), 1, newest_state(local))
        with pytest.raises(UserError, match=r"--resume: model\.encoder\.name=someone/mt holds other weights"):
            check_whole_run(settings_of(recipe, **where), 1, newest_state(local))


def test_what_cannot_be_compared_is_not_called_another_model(recipe, moved_on):
    folders, where = recipe.parent / "local.yaml", {"run__output_dir": moved_on.run.output_dir}
    state = newest_state(moved_on)
    unhashed = replace(state, bases={side: {**base, "weights": None} for side, base in state.bases.items()})
    with pytest.raises(
        UserError, match=r"--resume: model\.encoder\.name=.* cannot be compared with what .*someone/mt, hub:"
    ):
        check_whole_run(settings_of(folders, **where), 1, unhashed)
    own = {"name": "folder", "fingerprint": "sha256:1"}
    for base in unhashed.bases.values():
        with pytest.raises(
            UserError, match=r"^model\.start=x: its llm \(someone/\w+\) cannot be compared with folder, as"
        ):
            _is_same(own, base, "model.start=x: its llm")


def test_an_export_fetches_the_commit_it_was_trained_on(recipe, moved_on, local, tmp_path):
    export_run(Path(local.run.output_dir), tmp_path / "local")
    truth = MTLLM.from_pretrained(tmp_path / "local").encode(TEXTS, "deu_Latn")
    with hub_at(recipe.parent / "hub"):
        export_run(Path(moved_on.run.output_dir), tmp_path / "export")
        found = MTLLM.from_pretrained(tmp_path / "export").encode(TEXTS, "deu_Latn")
    assert torch.allclose(found, truth, atol=1e-6)
    config = json.loads((tmp_path / "export" / "config.json").read_text())
    assert [config["bases"][side]["revision"] for side in NAMES] == [FIRST, FIRST]
    assert json.loads((tmp_path / "export" / "adapter" / "adapter_config.json").read_text())["revision"] == FIRST


def test_weights_that_no_commit_of_the_branch_holds_are_left_unpinned_with_a_warning(recipe, tmp_path):
    hub, folder = tmp_path / "hub", tmp_path / "mt"
    save_mt_model(folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    push(hub, NAMES["encoder"], folder, FIRST)
    push(hub, NAMES["llm"], recipe.parent / "llm", FIRST)
    with hub_at(hub):
        plan = held(check_run(settings_of(recipe), 1))
    (warning,) = [line for line in plan.warnings if "no safetensors" in line]
    assert "model.encoder.revision" in warning
    assert (plan.settings.model.encoder.revision, plan.settings.model.llm.revision) == (None, FIRST)


def test_weights_that_the_reader_does_without_need_not_be_there(recipe, tmp_path):
    bare = save_mt_model(tmp_path / "mt")
    (bare / "model.safetensors").unlink()
    settings = {"model__encoder__name": str(bare), "run__output_dir": str(tmp_path / "run")}
    with pytest.raises(UserError, match=r"mt: holds no weights in safetensors"):
        check_run(settings_of(recipe.parent / "local.yaml", **settings), 1)
    alone = {"model__reader": "llm", "objective__name": "simcse"}
    plan = check_run(settings_of(recipe.parent / "local.yaml", **settings, **alone), 1)
    assert plan.bases["encoder"]["fingerprint"] is None
    assert "weights not needed" in describe_plan(plan)
