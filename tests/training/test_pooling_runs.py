"""Runs that pool in another way: live and cached teachers alike, on any ranks; what is exported encodes as it was trained to."""

import json

import pytest
import torch

from mtllm_ds import MTLLM
from mtllm_ds.checkpoint.export import FORMAT, export_run
from mtllm_ds.checkpoint.store import checkpoint_folders, read_state
from mtllm_ds.checkpoint.trained import read_trained
from mtllm_ds.commands import prepare
from mtllm_ds.errors import UserError
from mtllm_ds.preflight.plan import check_run
from mtllm_ds.preflight.resume import check_whole_run
from tests.fixtures.runs import losses_of, make_run, settings_of
from tests.objectives.test_pooled_alignment import POOLED
from tests.training.test_centring_runs import run_on

OTHERS = ("last", "weighted_mean")
CAUSAL = {"model__llm__bidirectional": "false"}
STEPS = {"run__max_steps": "3", "run__validate_every": "3"}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("pooling"))


@pytest.fixture(scope="module")
def runs(recipe):
    """Of each pooling: on two ranks, the teacher beside the student."""
    return {
        pooling: run_on(2, recipe, pooling, **CAUSAL, **STEPS, model__pooling=pooling) for pooling in (*OTHERS, "mean")
    }


def cache(recipe, pooling):
    """A target set of that name, by the command."""
    folders = [str(recipe.parent / name) for name in ("train", "validation")]
    llm = str(recipe.parent / "llm")
    asked = ["teacher-targets", "--teacher", llm, "--data", *folders, "--name", pooling]
    prepare.main([*asked, "--causal", "--pooling", pooling])


@pytest.mark.parametrize("pooling", OTHERS)
def test_cached_targets_on_one_rank_are_the_live_teacher_on_two(recipe, runs, pooling):
    cache(recipe, pooling)
    chosen = {**CAUSAL, **STEPS, "data__targets": pooling}
    cached = run_on(1, recipe, f"cached_{pooling}", **chosen, model__pooling=pooling)
    assert losses_of(cached) == pytest.approx(losses_of(runs[pooling]), rel=1e-5)
    for other in {*POOLED} - {pooling}:
        assert losses_of(runs[other])[1] != pytest.approx(losses_of(cached)[1], rel=1e-2)
        with pytest.raises(UserError) as caught:
            check_run(settings_of(recipe, **chosen, model__pooling=other), 1)
        assert f"'llm, as trained and pooled by {pooling}', not 'llm, as trained" in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("pooling", OTHERS)
def test_an_export_encodes_as_the_model_was_trained_to(recipe, runs, pooling, tmp_path):
    run = recipe.parent / pooling
    trained = export_run(run, tmp_path / "export")
    config = json.loads((tmp_path / "export" / "config.json").read_text())
    assert (config["pooling"], config["format"]) == (pooling, FORMAT)
    said = {
        "last": "the state of its last token",
        "weighted_mean": "the mean of its tokens' states, of which the i-th weighs i",
    }
    assert f"A text's vector is {said[pooling]}." in (tmp_path / "export" / "README.md").read_text()
    again = read_trained(tmp_path / "export")
    assert (again.model.pooling, again.fingerprint) == (pooling, trained.fingerprint)
    texts = ["Click the button.", "Save", "the file is large, and so is the folder"]
    model, other = (MTLLM.from_pretrained(place) for place in (tmp_path / "export", run))
    found = model.encode(texts, "eng_Latn", batch_size=2)
    assert torch.equal(found, other.encode(texts, "eng_Latn", batch_size=2))
    truth, teacher, means = [], [], []
    with torch.no_grad():
        for text in texts:
            ids = torch.tensor([model.ids((text,), "eng_Latn")])
            said = model.reader.encoder(ids, torch.ones_like(ids))
            truth.append(POOLED[pooling](model.reader.states(ids, torch.ones_like(ids))[0]))
            means.append(said[0].mean(0))
            own = torch.tensor([model._tokenizers["llm"]([text], None)])
            plain = model.reader.llm.get_base_model()
            with model.reader.llm.disable_adapter():
                teacher.append(POOLED[pooling](plain(input_ids=own).last_hidden_state[0]))
    torch.testing.assert_close(found, torch.stack(truth), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.encode_with_llm(texts), torch.stack(teacher), rtol=1e-4, atol=1e-5)
    # The encoder by itself is read by its mean whatever the stack does.
    torch.testing.assert_close(model.encode_both(texts, "eng_Latn"), (found, torch.stack(means)), rtol=1e-4, atol=1e-5)


def test_a_run_goes_on_as_it_was_pooled(recipe, runs):
    state = read_state(max(checkpoint_folders(recipe.parent / "last" / "checkpoints").items())[1])
    chosen = {**CAUSAL, **STEPS, "run__output_dir": str(recipe.parent / "last")}
    check_whole_run(settings_of(recipe, **chosen, model__pooling="last"), 1, state)
    with pytest.raises(UserError, match=r"model\.pooling"):
        check_whole_run(settings_of(recipe, **chosen), 1, state)


def test_a_trained_teacher_remembers(recipe, runs):
    asked = ["teacher-targets", "--data", str(recipe.parent / "train"), "--name", "x"]
    for more, words in (
        (["--pooling", "last"], "--pooling=last"),
        (["--causal"], "--causal"),
        (["--revision", "main"], "--revision=main"),
    ):
        with pytest.raises(UserError, match=f"^{words}: has no effect on a trained model, which remembers; leave it"):
            prepare.main([*asked, "--teacher", str(recipe.parent / "last"), *more])
