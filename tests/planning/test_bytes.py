"""A plan's bytes are those of a run on two ranks of both stages: of collectives, weights, gradients, masters and moments."""

import json
from collections import Counter
from dataclasses import asdict, replace
from math import ceil
from pathlib import Path

import pytest
import torch

from mtllm_ds.cluster.launch import join_cluster
from mtllm_ds.config.deepspeed import resolve_deepspeed
from mtllm_ds.planning.paper import batch_on_paper, objective_on_paper, text_of
from mtllm_ds.planning.rehearsal import rehearse
from mtllm_ds.planning.zero import ZeroSettings, gathers_of, kept_by_rank, traffic_of_step
from mtllm_ds.preflight.whole import choose_whole, memory_of
from mtllm_ds.training.runs import run_seeds
from tests.distributed.ranks import PARTITIONED, ranks
from tests.fixtures.dialogue_runs import PACKED, make_dialogue_run
from tests.fixtures.runs import make_run, settings_of
from tests.fixtures.task_runs import make_distillation, make_task_run, write_targets
from tests.planning.measured import measure

ZERO = json.loads(Path(PARTITIONED).read_text(encoding="utf-8"))
RANKS = 2


@pytest.fixture(scope="module")
def recipes(tmp_path_factory):
    """By method: a recipe that runs."""
    folder = tmp_path_factory.mktemp("planned")
    for name in ("text", "topics", "dialogues"):
        (folder / name).mkdir()
    tuning = make_task_run(folder / "topics", reader="llm")
    ranks(1).run(trained, tuning, {"run__max_steps": 1})
    teacher = folder / "topics" / "tuned"
    for split in ("train", "validation"):
        write_targets(folder / "topics" / split, teacher)
    found = {
        "stage1": make_run(folder / "text"),
        "stage2": make_distillation(tuning, teacher),
        "tokens": make_dialogue_run(folder / "dialogues"),
    }
    ranks(1).run(trained, found["tokens"], {"run__max_steps": 1, "run__output_dir": str(folder / "first")})
    for name, zero in FILES.items():
        (folder / f"{name}.json").write_text(json.dumps(ZERO | {"zero_optimization": ZERO["zero_optimization"] | zero}))
    return found | {"folder": folder}


def trained(recipe, overrides):
    run_seeds(settings_of(recipe, **overrides), join_cluster(), False)


FILES = {
    # Small enough that weights of tests are kept, released, fetched ahead and left away in turn.
    "between": {
        "stage3_param_persistence_threshold": 100, "stage3_prefetch_bucket_size": 2000, "stage3_max_reuse_distance": 3000,
        "stage3_max_live_parameters": 6000, "reduce_bucket_size": 500,
    },
    "ahead": {"stage3_prefetch_bucket_size": 5000, "stage3_max_live_parameters": 10**9, "stage3_max_reuse_distance": 10**9},
    "copies": {"zero_hpz_partition_size": 2, "stage3_max_reuse_distance": 500},
}  # fmt: skip
STACK = {"model__reader": "stacked", "model__connector__trainable": "true"}
MERGED = {"model__start": "first", "model__merge_start_lora": "true"}
WHOLE = {"training__whole_frozen_gib": "auto"}
INT8 = {"model__llm__quantization": "int8"}
UNFROZEN = {"model__encoder__num_trainable_layers": 1, "optim__encoder_learning_rate": 1e-3}
SHARED = {"training__whole_frozen_gib": 0}
CASES = {
    "stage 1": ("stage1", PARTITIONED, {}),
    "stage 1, shipped thresholds": ("stage1", "cpu", {}),
    "stage 1, thresholds between": ("stage1", "between", {}),
    "stage 1, fetched ahead": ("stage1", "ahead", {}),
    "stage 1, copies": ("stage1", "copies", {}),
    "stage 1, recomputed": ("stage1", "between", {"training__activation_checkpointing": "true"}),
    "stage 1, bf16": ("stage1", PARTITIONED, {"training__precision": "bf16"}),
    "stage 1, connector frozen": ("stage1", PARTITIONED, {"model__connector__trainable": "false"}),
    "stage 1, encoder in part": ("stage1", PARTITIONED, UNFROZEN),
    "stage 1, encoder in part, packed, thresholds between": ("stage1", "between", {**UNFROZEN, **PACKED}),
    "stage 1, encoder in part, small models whole, bf16": (
        "stage1",
        "ahead",
        {**UNFROZEN, **WHOLE, "training__precision": "bf16"},
    ),
    "stage 1, ZeRO-2": ("stage1", "zero2", {}),
    "stage 1, ZeRO-2, bf16": ("stage1", "zero2", {"training__precision": "bf16"}),
    "stage 2": ("stage2", PARTITIONED, STACK),
    "stage 2, shipped thresholds": ("stage2", "cpu", STACK),
    "stage 2, ZeRO-2": ("stage2", "zero2", STACK),
    "tokens": ("tokens", PARTITIONED, {}),
    "tokens, packed, thresholds between": ("tokens", "between", PACKED),
    "tokens, shipped thresholds": ("tokens", "cpu", {}),
    "tokens, ZeRO-2": ("tokens", "zero2", {}),
    "tokens, start frozen": ("tokens", "between", MERGED),
    "tokens, start teaches": ("tokens", PARTITIONED, {**MERGED, "objective__frozen_self": "start"}),
    "stage 1, small models whole": ("stage1", PARTITIONED, WHOLE),
    "stage 1, small models whole, thresholds between": ("stage1", "between", WHOLE),
    "stage 1, small models whole, fetched ahead": ("stage1", "ahead", WHOLE),
    "stage 1, small models whole, copies": ("stage1", "copies", WHOLE),
    "stage 1, small models whole, bf16": ("stage1", "between", {**WHOLE, "training__precision": "bf16"}),
    "stage 1, encoder's embeddings whole": ("stage1", PARTITIONED, {"training__whole_frozen_gib": 31_000 / 2**30}),
    "stage 2, small models whole": ("stage2", PARTITIONED, {**STACK, **WHOLE}),
    "stage 1, int8": ("stage1", "between", INT8),
    "stage 1, int8, bf16": ("stage1", PARTITIONED, {**INT8, "training__precision": "bf16"}),
    "stage 1, int8, small models whole": ("stage1", "ahead", {**INT8, **WHOLE}),
    "stage 1, int8, ZeRO-2, bf16": ("stage1", "zero2", {**INT8, "training__precision": "bf16"}),
    "tokens, int8, packed, copies": ("tokens", "copies", {**INT8, **PACKED}),
    "tokens, small models whole": ("tokens", "between", {**PACKED, **WHOLE}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_step_sends_and_keeps_what_its_plan_says(recipes, case):
    method, file, overrides = CASES[case]
    name = str(recipes["folder"] / f"{file}.json") if file in FILES else file
    shared = {} if file == "zero2" else SHARED
    overrides = {**shared, **overrides, "training__deepspeed": name}
    if "model__start" in overrides:
        overrides["model__start"] = str(recipes["folder"] / overrides["model__start"])
    overrides, seen = measure(recipes[method], case.replace(" ", "_").replace(",", ""), **overrides)
    planned = plan(recipes[method], overrides)
    for one in seen:
        assert asdict(one) == planned


def plan(recipe, overrides):
    """As `Measured`, on paper."""
    settings = settings_of(recipe, **overrides)
    text, data = text_of(settings, None, None), settings.data
    objective = objective_on_paper(settings, text)
    batch = batch_on_paper(settings, text, data.cells_per_forward, objective.student.hidden_size)
    trace = rehearse(objective, batch, settings.optim)
    micro_batches = ceil(data.lanes / RANKS / data.cells_per_forward)
    ds_config = resolve_deepspeed(settings, world_size=RANKS, micro_batch_size=1, micro_batches_per_step=micro_batches)
    zero, device = ZeroSettings.of(ds_config), memory_of(torch.device("cpu"), RANKS)
    frozen = [(weight.part, weight.numel) for weight in trace.weights if not weight.trains]
    trace = trace.keeping(choose_whole(settings, ds_config, frozen, device).holds)
    gathers = gathers_of(trace, zero, micro_batches)
    kept = kept_by_rank(trace, zero, gathers, RANKS)
    payload, calls = Counter(), Counter()
    for one in traffic_of_step(trace, zero, gathers, micro_batches, RANKS):
        payload[one.kind] += one.payload_bytes
        calls[one.kind] += one.num_calls
    aliased = zero.stage == 3 and zero.weight_bytes == 4  # the weights in use are the masters
    return {
        "payload_bytes": dict(payload),
        "calls": dict(calls),
        "master_bytes": kept.masters if not aliased else kept.optimizer // 2,
        "moment_bytes": kept.optimizer - kept.masters,
        "num_trained": trace.num_trained,
        "weight_bytes": kept_by_rank(trace, replace(zero, num_copying_ranks=1), gathers, RANKS).weights,
        "gradient_bytes": kept.gradients if zero.stage == 3 else None,
    }
