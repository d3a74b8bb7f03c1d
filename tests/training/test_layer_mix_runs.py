"""Mixed encoder layers in a run: alike on any ranks, resumed to the digit, exported and read again."""

import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mtllm_ds import MTLLM
from mtllm_ds.checkpoint.export import export_run
from mtllm_ds.checkpoint.trained import read_trained
from mtllm_ds.errors import UserError
from mtllm_ds.planning.paper import batch_on_paper, objective_on_paper, text_of
from mtllm_ds.planning.rehearsal import rehearse
from mtllm_ds.preflight.plan import check_run
from tests.fixtures.runs import losses_of, make_run, settings_of
from tests.training.test_centring_runs import run_on

MIX = {
    "model__connector__layers": "all", "model__connector__init": "least_squares", "model__connector__match_scale": "true",
    "optim__connector_learning_rate": "0.05", "run__validate_every": "2", "run__save_every": "2",
}  # fmt: skip


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("mix"))


@pytest.fixture(scope="module")
def run(recipe):
    return run_on(2, recipe, "two", run__max_steps=4, **MIX)


def test_a_run_resumes_on_another_number_of_ranks(recipe, run):
    shutil.copytree(recipe.parent / "two", recipe.parent / "one")
    shutil.rmtree(recipe.parent / "one" / "checkpoints" / "step_00000004")
    one = run_on(1, recipe, "one", resume=True, run__max_steps=4, **MIX)
    assert losses_of(one) == pytest.approx(losses_of(run), rel=1e-5)
    assert len(losses_of(run)) == 4


def test_weights_train_and_travel_in_the_export(recipe, run, tmp_path):
    trained = export_run(recipe.parent / "two", tmp_path / "export")
    logits = load_file(tmp_path / "export" / "layer_mix.safetensors")["logits"]
    assert torch.equal(logits, trained.weights["layer_mix.logits"])
    assert logits.abs().min() > 1e-3  # it started at 0
    again = read_trained(tmp_path / "export")
    assert again.model.connector.layers == "all"
    assert again.fingerprint == trained.fingerprint
    texts = ["Click the button.", "Save the file."]
    one, other = (MTLLM.from_pretrained(str(place)).encode(texts, lang="eng_Latn") for place in
                  (tmp_path / "export", recipe.parent / "two"))  # fmt: skip
    np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
    model = MTLLM.from_pretrained(str(tmp_path / "export"))
    both = model.encode_both(texts, lang="eng_Latn")
    torch.testing.assert_close(both, (other, model.encode_with_encoder(texts, lang="eng_Latn")), rtol=1e-5, atol=1e-6)
    (tmp_path / "export" / "layer_mix.safetensors").unlink()
    with pytest.raises(UserError, match=r"layer_mix\.safetensors cannot be read"):
        read_trained(tmp_path / "export")


def test_a_start_has_the_same_layers(recipe, run):
    start = {"model__start": str(recipe.parent / "two"), "run__output_dir": str(recipe.parent / "later")}
    check_run(settings_of(recipe, model__connector__layers="all", **start), 1)
    with pytest.raises(UserError, match=r"its connector has layers=all; set model\.connector\.layers to that"):
        check_run(settings_of(recipe, model__connector__layers="[0,1]", **start), 1)
    frozen = {"model__connector__trainable": "false", "model__connector__layers": "all", **start}
    run_on(1, recipe, "later", **{k: v for k, v in frozen.items() if k != "run__output_dir"})
    kept, before = (read_trained(recipe.parent / name).weights["layer_mix.logits"] for name in ("later", "two"))
    assert torch.equal(kept, before)


def test_a_plan_counts_them(recipe):
    settings = settings_of(recipe, model__connector__layers="all")
    text = text_of(settings, 8, 8)
    objective = objective_on_paper(settings, text)
    trace = rehearse(objective, batch_on_paper(settings, text, 1, objective.student.hidden_size), settings.optim)
    [logits] = [weight for weight in trace.weights if weight.name == "student.layer_mix.logits"]
    assert logits.numel == len(objective.student.encoder.layers)
    assert logits.group is not None
