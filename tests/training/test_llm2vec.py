"""LLM2Vec through the loop: the same losses on one and two ranks, and a merged folder that is an ordinary LLM."""

import pytest
import torch
from rich.console import Console
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer

from mtllm_ds.checkpoint.trained import read_trained
from mtllm_ds.cluster.launch import join_cluster
from mtllm_ds.config.sections import LLMSettings
from mtllm_ds.data.stream.stream import EvalStream
from mtllm_ds.errors import UserError
from mtllm_ds.models.build import load_reader
from mtllm_ds.models.loading import load_llm
from mtllm_ds.models.pooling import pool
from mtllm_ds.training.assemble import open_run
from mtllm_ds.training.runs import run_seeds
from mtllm_ds.transfer_sets.merged_llm import write_merged
from tests.distributed.ranks import PARTITIONED, ranks
from tests.fixtures.runs import losses_of, make_run, rows_of, settings_of


def train(recipe, overrides):
    """On a rank of a pool."""
    return run_seeds(settings_of(recipe, **overrides), join_cluster(), False)


def run_on(world_size, recipe, name, **overrides):
    overrides |= {
        "run__output_dir": str(recipe.parent / name), "model__reader": "llm", "data__cells_per_forward": "1",
        "run__max_steps": "4", "run__validate_every": "2",
    }  # fmt: skip
    assert ranks(world_size).run(train, recipe, overrides) == [0] * world_size
    return settings_of(recipe, **overrides)


MASKED = {"objective__name": "masked_next_token", "objective__mask_token": "e"}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("llm2vec"))


@pytest.fixture(scope="module")
def masked(recipe):
    return run_on(1, recipe, "masked", **MASKED)


@pytest.fixture(scope="module")
def adapted(recipe, masked):
    start = {"model__start": masked.run.output_dir, "model__merge_start_lora": "true"}
    return run_on(1, recipe, "adapted", objective__name="simcse", **start)


def test_one_and_two_ranks_mask_alike(recipe, masked):
    two = run_on(2, recipe, "masked2", **MASKED)
    assert losses_of(two) == pytest.approx(losses_of(masked), rel=1e-5)
    for a, b in zip(rows_of(masked), rows_of(two), strict=True):
        for name in a.keys() & {"eval_loss", "eval_masked_accuracy"}:
            assert b[name] == pytest.approx(a[name], rel=1e-5)
    assert len([row for row in rows_of(masked) if "eval_loss" in row]) == 2


def test_one_and_two_ranks_set_the_texts_of_a_step_against_each_other(recipe):
    """With weights in parts, and a rank that has one forward less than the other."""
    step = {
        "objective__name": "simcse", "objective__negatives": "step", "data__lanes": "5", "data__samples_per_cell": "1",
        "training__deepspeed": PARTITIONED,
    }  # fmt: skip
    one, two = (run_on(world_size, recipe, f"step{world_size}", **step) for world_size in (1, 2))
    assert len(losses_of(one)) == 4
    assert losses_of(two) == pytest.approx(losses_of(one), rel=1e-5)
    for a, b in zip(rows_of(one), rows_of(two), strict=True):
        for name in a.keys() & {"grad_norm", "self_similarity", "eval_loss"}:
            assert b[name] == pytest.approx(a[name], rel=1e-4)


def invalidations(recipe, overrides):
    """On a rank: how often DeepSpeed threw away the order in which it gathers, in each step."""
    from deepspeed.runtime.zero.partitioned_param_coordinator import PartitionedParameterCoordinator as Coordinator

    steps, original = [], Coordinator._invalidate_trace

    def counting(self):
        steps[-1] += 1
        original(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Coordinator, "_invalidate_trace", counting)
        trainer = open_run(settings_of(recipe, **overrides), join_cluster(), False, Console(quiet=True))
        take = trainer._take_step
        trainer._take_step = lambda *given: steps.append(0) or take(*given)
        trainer.run()
        trainer.close()
    return steps


@pytest.mark.parametrize("forwards", [1, 2])
def test_a_look_ahead_leaves_the_order_of_gathers_known(recipe, forwards):
    overrides = {
        "run__output_dir": str(recipe.parent / f"order{forwards}"), "model__reader": "llm", "data__samples_per_cell": "1",
        "data__cells_per_forward": "1", "data__lanes": str(2 * forwards), "run__max_steps": "6", "run__validate_every": "6",
        "objective__name": "simcse", "objective__negatives": "step", "training__deepspeed": PARTITIONED,
    }  # fmt: skip
    for steps in ranks(2).run(invalidations, recipe, overrides):
        assert len(steps) == 6
        assert not any(steps[2:])


def test_a_tied_table_is_gathered_for_head_and_embeddings(tmp_path):
    recipe = make_run(tmp_path)
    torch.manual_seed(3)
    config = AutoConfig.from_pretrained(tmp_path / "llm", tie_word_embeddings=True)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "llm")
    one, two = (
        losses_of(run_on(world_size, recipe, f"tied{world_size}", **MASKED, training__deepspeed=PARTITIONED))
        for world_size in (1, 2)
    )
    assert two == pytest.approx(one, rel=1e-5)


def test_the_merged_folder_is_the_adapted_llm(recipe, adapted, tmp_path):
    assert all(0 < loss < 5 for loss in losses_of(adapted).values())
    folder = tmp_path / "llm"
    write_merged(adapted.run.output_dir, folder)
    assert AutoConfig.from_pretrained(folder).is_causal is False
    trained = read_trained(adapted.run.output_dir)
    reader = load_reader(trained.model, trained.weights, torch.device("cpu"), torch.float32)
    merged = load_llm(LLMSettings(name=str(folder)), "sdpa", torch.float32).eval()
    plain = AutoModel.from_pretrained(recipe.parent / "llm").eval()
    plain.config.is_causal = False
    batch = next(iter(EvalStream(str(recipe.parent / "validation"), batch_size=8)))
    with torch.no_grad():
        expected = reader.vectors(batch)
        found, untrained = (
            pool(
                model(input_ids=batch.llm_ids, attention_mask=batch.llm_mask).last_hidden_state, batch.llm_mask, "mean"
            )
            for model in (merged, plain)
        )
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(untrained, expected, rtol=1e-2, atol=1e-2)
    assert AutoTokenizer.from_pretrained(folder)("the cells")["input_ids"]
    with pytest.raises(UserError, match="exists and was not written by `mtllm-ds export`; choose another folder"):
        write_merged(adapted.run.output_dir, recipe.parent / "llm")


def test_settings_that_do_not_fit(recipe):
    fits = {"objective__name": "simcse", "model__reader": "llm"}
    assert settings_of(recipe, **fits).objective.temperature == 0.05
    for change, words in (
        ({"model__reader": "stacked"}, "does not train it; set model.reader=llm"),
        ({"model__llm__bidirectional": "false"}, "teaches the LLM to look both ways; set it to true"),
        (
            {"data__samples_per_cell": "1"},
            "data.samples_per_cell=1: objective.name=simcse compares the texts of a cell; set it to 2 or more, or "
            "objective.negatives=step",
        ),
        (
            {"data__samples_per_cell": "1", "data__lanes": "1", "objective__negatives": "step"},
            "data.lanes=1: objective.name=simcse compares the texts of a step, and there is one; raise it",
        ),
        (
            {"model__attention": "flash_attention_4", "training__precision": "bf16"},
            "flash attention 4 has no dropout; set model.attention=sdpa",
        ),
        (
            {"objective__mask_share": "0.5"},
            "it belongs to objective.name=masked_next_token or balanced_teachers; remove it",
        ),
        ({"objective__token_weight": "0.5"}, "it belongs to objective.name=pooled_alignment; remove it"),
        ({"objective__select_by": "accuracy"}, "no figure of objective.name=simcse"),
        ({"data__targets": "t"}, "data.targets=t: has no effect with objective.name=simcse"),
    ):
        with pytest.raises(UserError, match=words.replace(".", r"\.")):
            settings_of(recipe, **{**fits, **change})
