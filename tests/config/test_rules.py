"""Settings that contradict each other or have no effect are told in one line each; seeds become runs of their own."""

from functools import reduce

import pytest
import yaml

from mtllm_ds.config import load_settings
from mtllm_ds.config.seeds import seed_runs
from mtllm_ds.errors import UserError

BASE = "run: {output_dir: out, max_steps: 2}\nmodel: {encoder: {name: mt}, llm: {name: llm}}\ndata: {train: data}\n"
STAGE2 = ["objective.name=task_distillation", "objective.teacher=t", "data.targets=x"]
TUNING = ["objective.name=task_tuning"]
ANSWERS = ["objective.name=token_distillation", "model.llm.bidirectional=false"]
SIMCSE = ["objective.name=simcse", "model.reader=llm", "data.samples_per_cell=2"]


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(BASE)
    return path


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["objective.name=task_distillation", "data.targets=x"], "objective.teacher"),
        ([*STAGE2[:2]], "data.targets"),
        ([*TUNING, "objective.teacher=t"], "objective.teacher=t: has no effect"),
        ([*TUNING, "data.targets=x"], "data.targets=x: has no effect"),
        ([*TUNING, "objective.match=logits"], "objective.match=logits: has no effect"),
        ([*TUNING, "objective.start_at_teacher=true"], "objective.start_at_teacher=true: has no effect"),
        ([*STAGE2, "objective.start_at_teacher=true"], "set model.merge_start_lora=true"),
        (["objective.select_by=accuracy"], "no figure of objective.name=pooled_alignment"),
        (["model.reader=llm"], "set model.reader=stacked"),
        ([*STAGE2, "model.reader=encoder"], "set model.reader=stacked"),
        ([*TUNING, "model.reader=llm", "model.connector.type=mlp"], "model.connector: has no effect"),
        ([*TUNING, "model.reader=encoder", "model.liger=true"], "model.liger=true: has no effect"),
        (["model.merge_start_lora=true"], "no effect without model.start"),
        (["model.start=a", "model.connector.match_scale=true"], "match_scale have no effect"),
        (["model.connector.centring=language"], "centring_text"),
        (["model.connector.layers=[2]"], "two or more different layers"),
        (["model.connector.layers=[1,1]"], "two or more different layers"),
        (["model.connector.layers=some"], "model.connector.layers"),
        (
            ["model.connector.layers=[1,2]", "model.connector.centring=language", "model.connector.centring_text=a"],
            "model.connector.layers=[1, 2]: changes what means by language are of",
        ),
        ([*TUNING, "model.reader=llm", "model.connector.layers=all"], "model.connector: has no effect"),
        (["model.connector.centring_text=a"], "has no effect with model.connector.centring=none"),
        (["model.connector.init_documents=9"], "model.connector.init_documents=9: has no effect without"),
        (["model.connector.match_scale=true", "model.connector.init_ridge=0.1"], "init_ridge=0.1: has no effect"),
        (["model.connector.centring_documents=9"], "centring_documents=9: has no effect without"),
        (["optim.connector_learning_rate=1", "model.connector.trainable=false"], "no effect on a frozen connector"),
        ([*STAGE2, "optim.connector_learning_rate=1"], "no effect on a frozen connector"),
        ([*TUNING, "model.reader=llm", "optim.connector_learning_rate=1"], "no effect with model.reader=llm"),
        (["optim.encoder_learning_rate=1"], "has no effect without model.encoder.num_trainable_layers; remove it"),
        (
            [*TUNING, "model.reader=llm", "model.encoder.num_trainable_layers=2"],
            "model.encoder.num_trainable_layers=2: has no effect with model.reader=llm; remove it",
        ),
        (
            [*TUNING, "model.reader=encoder", "model.encoder.num_trainable_layers=2"],
            "model.reader=encoder; remove it, and name in model.trainable what trains",
        ),
        (
            [
                "model.encoder.num_trainable_layers=2",
                "model.connector.centring=language",
                "model.connector.centring_text=a",
            ],
            "model.encoder.num_trainable_layers=2: changes what means by language are of while it trains",
        ),
        (["model.encoder.num_trainable_layers=-1"], "model.encoder.num_trainable_layers"),
        (["model.encoder.num_trainable_layers=true"], "model.encoder.num_trainable_layers"),
        (["data.queue_size=9"], "data.queue_size=9: has no effect without token budgets"),
        (["data.encoder_buckets=9"], "data.encoder_buckets=9: has no effect without token budgets"),
        (["data.max_skipped_share=0.5"], "data.max_skipped_share=0.5: has no effect with data.on_error=fail"),
        (["data.validation_samples=9"], "data.validation_samples=9: has no effect without data.validation"),
        (["run.seeds=[1,1]"], "each once"),
        (["run.save_every=4", "run.keep_every=6"], "run.keep_every=6: no multiple of run.save_every=4; set it to one"),
        (["failures.max_roll_backs=1"], "has no effect with failures.on_loss_spike=log; remove it"),
        (["failures.on_loss_spike=ignore", "failures.spike_window=50"], "failures.spike_window=50: has no effect with"),
        ([*SIMCSE, "objective.attention_dropout=0", "model.lora.dropout=0"], "without any dropout"),
        ([*SIMCSE, "objective.attention_dropout=0", "model.trainable=all"], "without any dropout"),
        (
            ["objective.name=masked_next_token", "model.reader=llm", "model.trainable=all", "model.start=a"],
            "takes its head from model.llm.name",
        ),
        (["objective.contrastive_temperature=0.1"], "has no effect without objective.contrastive_weight; remove it"),
        (
            ["objective.contrastive_weight=1", "data.lanes=1", "data.samples_per_cell=1"],
            "texts of a step, and there is one",
        ),
        (["objective.sequence_weight=0"], "objective.token_weight and contrastive_weight are 0 as well"),
        (["model.trainable=all"], "is the language model as it was; cache what it says"),
        (["model.trainable=all", "data.targets=x", "model.lora.rank=4"], "model.lora: has no effect with"),
        (["model.trainable=[]", "data.targets=x"], "name modules, or set lora or all"),
        (["model.trainable=layers"], "a list of modules such as"),
        (
            [*TUNING, "model.trainable=[norm]", "model.llm.quantization=int8"],
            "model.llm.quantization=int8: weights in 8 bits do not train; set model.trainable=lora, or quantization to null",
        ),
        (
            [*TUNING, "model.reader=encoder", "model.llm.quantization=int8"],
            "model.llm.quantization=int8: has no effect with model.reader=encoder; remove it",
        ),
        (
            ["training.compile=layers", "model.llm.quantization=int8"],
            "training.compile=layers: would keep every layer's dequantised weights for the backward",
        ),
        (["model.llm.quantization=int4"], "model.llm.quantization"),
        (["data.llm_tokens_per_cell=9"], "data.encoder_tokens_per_cell=null: the other side has a budget"),
        (
            [*ANSWERS, "objective.frozen_self=start"],
            "set model.start and model.merge_start_lora=true",
        ),
        (
            [*ANSWERS, "objective.frozen_self=start", "model.start=a", "model.merge_start_lora=true", "data.targets=x"],
            "objective.frozen_self=start: has no effect with data.targets=x",
        ),
        (
            [*ANSWERS, "objective.kl_weight=0", "objective.nll_weight=1", "objective.frozen_self=start"],
            "objective.frozen_self=start: has no effect with objective.kl_weight=0",
        ),
        (["objective.name=nope"], "objective.name=nope: no such objective; there are pooled_alignment"),
        (["objective.name=no_module:Thing"], "put its folder on PYTHONPATH"),
        (["run.seeds=[]"], "at least one seed"),
        (["run.seeds=[1,2]", "run.seed=4"], "no effect beside run.seeds"),
    ],
)
def test_each_mistake_is_told(recipe, overrides, message):
    with pytest.raises(UserError) as caught:
        load_settings(recipe, overrides)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "overrides",
    [
        ["model.connector.init=least_squares", "model.connector.init_documents=9", "model.connector.init_ridge=0.1"],
        ["model.connector.match_scale=true", "model.connector.init_documents=9"],
        [
            "model.connector.centring=language",
            "model.connector.centring_text=text",
            "model.connector.centring_documents=9",
        ],
        ["optim.connector_learning_rate=1"],
        ["model.encoder.num_trainable_layers=2", "optim.encoder_learning_rate=1"],
        [*STAGE2, "model.encoder.num_trainable_layers=2"],
        [*STAGE2, "model.connector.trainable=true", "optim.connector_learning_rate=1"],
        ["data.encoder_tokens_per_cell=9", "data.llm_tokens_per_cell=9", "data.queue_size=9", "data.encoder_buckets=9"],
        ["data.on_error=skip", "data.max_skipped_share=0.5"],
        ["data.validation=valid", "data.validation_samples=9"],
        ["model.llm.quantization=int8", "training.compile=layers", "training.activation_checkpointing=true"],
    ],
)
def test_what_has_an_effect_is_accepted_and_kept(recipe, overrides):
    settings = load_settings(recipe, overrides).model_dump()
    for override in overrides:
        key, given = override.split("=")
        value = reduce(lambda section, name: section[name], key.split("."), settings)
        assert value == yaml.safe_load(given), key


def test_defaults_follow_the_objective(recipe):
    stage1, tuning, stage2 = (load_settings(recipe, given) for given in ([], TUNING, STAGE2))
    assert [s.connector_trains for s in (stage1, tuning, stage2)] == [True, False, False]
    assert [s.objective.selected_by for s in (stage1, tuning, stage2)] == ["loss", "accuracy", "loss"]
    assert load_settings(recipe, [*STAGE2, "model.connector.trainable=true"]).connector_trains


def test_a_run_a_seed(recipe):
    overrides = [*STAGE2, "run.seeds=[0,2]", "model.start=runs/one/seed-{seed}", "objective.teacher=t/seed-{seed}"]
    runs = seed_runs(load_settings(recipe, overrides))
    assert [(r.run.seed, r.run.output_dir, r.run.seeds) for r in runs] == [
        (0, "out/seed-0", None),
        (2, "out/seed-2", None),
    ]
    assert [(r.model.start, r.objective.teacher) for r in runs] == [
        ("runs/one/seed-0", "t/seed-0"),
        ("runs/one/seed-2", "t/seed-2"),
    ]
    assert [r.run.output_dir for r in seed_runs(load_settings(recipe))] == ["out"]
