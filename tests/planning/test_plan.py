"""Plans of whole recipes: against formulas, against memory that was really allocated, and what other layouts change."""

import math
import shutil
from dataclasses import replace

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from mtllm_ds.config import load_settings
from mtllm_ds.config.shipped import RECIPES, ROOT
from mtllm_ds.errors import UserError
from mtllm_ds.models.build import arrange_reader, build_reader
from mtllm_ds.models.loading import llm_config
from mtllm_ds.objectives.base import Parts, build_objective
from mtllm_ds.observe.gpus import GPUS
from mtllm_ds.planning.hardware import Machine
from mtllm_ds.planning.hooks import ZeroHooks
from mtllm_ds.planning.paper import batch_on_paper, objective_on_paper, text_of
from mtllm_ds.planning.plan import Planner
from mtllm_ds.planning.rehearsal import rehearse
from mtllm_ds.planning.roofline import crossing_bytes, time_of_step
from mtllm_ds.planning.zero import Traffic
from mtllm_ds.preflight.paired import check_pairing
from mtllm_ds.teachers.beside import teacher_beside
from tests.distributed.ranks import PARTITIONED
from tests.fixtures.dialogue_runs import PACKED, make_dialogue_run
from tests.fixtures.runs import make_run, settings_of

PERFECT = Machine(gpu=GPUS["h200"], num_nodes=1, gpus_per_node=2, bandwidth_utilisation=1.0, compute_utilisation=1.0)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("plans"))


@pytest.fixture(scope="module")
def dialogues(tmp_path_factory):
    return make_dialogue_run(tmp_path_factory.mktemp("dialogues"))


def planner(recipe, **overrides):
    settings = settings_of(recipe, **overrides)
    return Planner(settings, text_of(settings, None, None))


@pytest.fixture(scope="module")
def own(recipe):
    return planner(recipe).plan(PERFECT)


def test_products_are_those_of_the_layers(recipe, own):
    """Student and teacher of stage 1, counted by hand: two passes forward, and backward what leads to LoRA and connector."""
    batch, encoder_tokens, llm_tokens = 4, 64, 64

    def llm_layers(tokens, backward):
        hidden, middle, keys, rank = 24, 40, 12, 2
        frozen = {(hidden, hidden): 2, (hidden, keys): 2, (hidden, middle): 2, (middle, hidden): 1}
        products = sum(count * a * b for (a, b), count in frozen.items())
        attention = 2 * tokens * hidden  # scores and weighted values of a token
        if not backward:
            return 2 * 2 * batch * tokens * (products + attention)
        lora = sum(count * rank * (a + b) for (a, b), count in frozen.items())
        # Of frozen matrices the gradient of the input alone; of LoRA both; of attention 5 products for 2.
        return 2 * 2 * batch * tokens * (2 * products + 3 * lora + 3.5 * attention)

    encoder = 2 * 2 * batch * encoder_tokens * (4 * 16 * 16 + 2 * 16 * 32 + 2 * encoder_tokens * 16)
    connector = (
        2 * batch * encoder_tokens * 16 * 24 * 2
    )  # forward, and the gradient of its weight: its input needs none
    wanted = encoder + connector + llm_layers(llm_tokens, False) + llm_layers(encoder_tokens, True)
    rope = own.trace.flops - wanted
    assert 0 <= rope < 0.01 * wanted  # the angles of positions are a product too


def allocated(settings, text, cells):
    """Most bytes that a real forward and backward had allocated at once, as torch's own profiler tells."""
    reader = build_reader(settings, torch.device("cpu"))
    arrange_reader(reader, settings)
    pairing = check_pairing(settings, llm_config(settings.model.given_llm), zero_stage=3)
    teacher = teacher_beside(settings, reader, None, pairing)
    parts = Parts(settings=settings, student=reader, teacher=teacher, num_languages=text.num_languages)
    objective = build_objective(parts).train()
    hooks = ZeroHooks(objective)  # they hold some tensors a little longer, as DeepSpeed's do
    batch = batch_on_paper(settings, text, cells, reader.hidden_size)
    # Of rows without padding transformers makes no mask, once it has seen them; a plan has seen none.
    batch.llm_mask[-1, -1] = batch.encoder_mask[-1, -1] = 0
    objective.count(batch)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        with hooks.forward():
            loss = objective(batch).loss_sum
        with hooks.backward():
            loss.backward()
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    alive = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        alive += event.nbytes()
        peak = max(peak, alive)
    return peak


@pytest.mark.parametrize("recomputes", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
def test_activations_are_what_a_real_step_allocates(recipe, packed, recomputes):
    overrides = {
        "model__attention": "eager",
        "training__activation_checkpointing": recomputes,
        **(PACKED if packed else {}),
    }
    settings = settings_of(recipe, **overrides)
    text = text_of(settings, 30, 30)
    objective = objective_on_paper(settings, text)
    trace = rehearse(objective, batch_on_paper(settings, text, 2, objective.student.hidden_size), settings.optim)
    assert trace.peak_bytes == pytest.approx(allocated(settings, text, 2), rel=0.03)


def test_every_rank_more_holds_and_sends_less(recipe):
    plans = [planner(recipe, data__lanes=64).plan(replace(PERFECT, num_nodes=nodes)) for nodes in (1, 4, 16)]
    assert [plan.machine.num_ranks for plan in plans] == [2, 8, 32]
    assert [plan.micro_batches for plan in plans] == [16, 4, 1]
    assert len({plan.samples_per_step for plan in plans}) == 1
    held = [plan.kept.optimizer for plan in plans]
    assert held == sorted(held, reverse=True)
    assert held[0] < 17 * held[2]
    with pytest.raises(UserError, match=r"data.lanes=64: fewer than the 66 GPUs"):
        planner(recipe, data__lanes=64).plan(replace(PERFECT, num_nodes=33))


def test_variants_change_what_they_are_meant_to(recipe):
    plans = planner(recipe, data__lanes=64, training__deepspeed=PARTITIONED)
    own = plans.plan(replace(PERFECT, num_nodes=4, gpus_per_node=2))
    found = dict(plans.variants(own))
    assert list(found) == [
        "ZeRO-2", "ZeRO-3, hpZ of 2", "ZeRO-3, offload to the CPU", "micro-batch x 2", "micro-batch / 2", "activations recomputed",
        "LLM's layers in int8", "8 nodes, same batch", "8 nodes, batch x 2",
    ]  # fmt: skip
    assert found["ZeRO-2"].kept.weights > own.kept.weights
    assert found["ZeRO-3, offload to the CPU"].memory_bytes < own.memory_bytes
    assert found["ZeRO-3, offload to the CPU"].kept.on_cpu > found["ZeRO-3, offload to the CPU"].kept.optimizer
    assert (
        found["micro-batch x 2"].micro_batches * 2 == own.micro_batches == found["micro-batch / 2"].micro_batches // 2
    )
    assert found["activations recomputed"].trace.peak_bytes < own.trace.peak_bytes
    assert found["activations recomputed"].trace.flops > own.trace.flops
    assert found["LLM's layers in int8"].kept.weights < own.kept.weights
    assert found["LLM's layers in int8"].sent_bytes < own.sent_bytes
    assert found["LLM's layers in int8"].trace.flops == own.trace.flops
    assert found["8 nodes, same batch"].samples_per_step == own.samples_per_step
    assert found["8 nodes, batch x 2"].samples_per_step == 2 * own.samples_per_step


def test_no_variant_is_offered_that_a_run_refuses(recipe, tmp_path):
    """8 bits beside compiled layers whose activations are kept, and beside a DeepSpeed file that reads weights as numbers."""
    machine = replace(PERFECT, num_nodes=4, gpus_per_node=2)

    def names(**overrides):
        plans = planner(recipe, data__lanes=64, **overrides)
        return {name for name, _ in plans.variants(plans.plan(machine))}

    int8, kept = "LLM's layers in int8", "activations kept"
    compiled = {"training__compile": "layers", "training__activation_checkpointing": "true"}
    assert {int8, kept} <= names(**compiled)
    assert kept not in names(**compiled, model__llm__quantization="int8")
    assert int8 not in names(training__compile="layers", training__activation_checkpointing="false")
    file = tmp_path / "as_numbers.json"
    file.write_text('{"bf16": {"enabled": false}, "zero_optimization": {"stage": 3, "zero_quantized_weights": true}}')
    assert int8 not in names(training__deepspeed=str(file))


def test_what_a_run_refuses_under_zero_2_is_refused_on_paper_and_said_of_the_variant(recipe, dialogues):
    with pytest.raises(UserError, match=r"model.paired_sweep=true: ZeRO stage 2 leaves weights whole"):
        planner(recipe, training__deepspeed="zero2", model__paired_sweep="true").plan(PERFECT)
    layers = {"objective__rollouts__gather": "layers", "objective__rollouts__max_new_tokens": 4}
    with pytest.raises(UserError, match=r"objective.rollouts.gather=layers: has no effect"):
        planner(dialogues, training__deepspeed="zero2", **layers).plan(PERFECT)
    plans = planner(dialogues, training__deepspeed="zero3", training__whole_frozen_gib=0, **layers)
    assert "ZeRO-2" in dict(plans.variants(plans.plan(PERFECT)))
    assert plans.warnings[-1] == (
        "ZeRO-2 is planned without objective.rollouts.gather=layers and training.whole_frozen_gib=0, which a run would refuse "
        "there"
    )


def test_copies_within_a_node_take_weights_off_the_network(recipe):
    """At thresholds of 0, with all weights of a toy too small for the shipped ones."""
    plans = planner(recipe, data__lanes=64, training__deepspeed=PARTITIONED)
    own = plans.plan(replace(PERFECT, num_nodes=4, gpus_per_node=2))
    copied = dict(plans.variants(own))["ZeRO-3, hpZ of 2"]

    def crossing(plan):
        return sum(crossing_bytes(one, plan.machine) for one in plan.traffic if one.kind == "all_gather")

    assert crossing(copied) < 0.2 * crossing(own)


def test_scaling_is_even_until_the_network_is_not(recipe):
    plans = planner(recipe, training__deepspeed=PARTITIONED, training__whole_frozen_gib=0)
    found = plans.scaling(plans.plan(replace(PERFECT, num_nodes=2, gpus_per_node=2)))
    assert list(found) == ["as it is", "ZeRO-2", "ZeRO-3, hpZ of 2"]
    scaled = found["as it is"]
    assert [plan.machine.num_ranks for plan in scaled] == [8 * 2**k for k in range(10)]
    assert len({(plan.micro_batches, plan.cells_in_forward) for plan in scaled}) == 1
    steps = [plan.time.step for plan in scaled]
    assert steps == sorted(steps)
    assert scaled[-1].time.bottleneck == "latency of collectives"
    assert found["ZeRO-2"][-1].time.step < steps[-1] / 5
    kept = planner(recipe, training__deepspeed=PARTITIONED)
    less = kept.scaling(kept.plan(replace(PERFECT, num_nodes=2, gpus_per_node=2)))["as it is"]
    assert less[-1].time.step < 0.6 * steps[-1]  # what is whole passes no ring


@pytest.mark.parametrize(
    ("per_node", "gpus"), [(6, [12 * 2**k for k in range(9)]), (12, [12 * 2**k for k in range(9)])]
)
def test_scaling_goes_by_whole_nodes(recipe, per_node, gpus):
    plans = planner(recipe, data__lanes=24)
    own = plans.plan(replace(PERFECT, num_nodes=12 // per_node, gpus_per_node=per_node))
    scaled = plans.scaling(own)["as it is"]
    assert [plan.machine.num_ranks for plan in scaled] == gpus
    assert [plan.samples_per_step for plan in scaled] == [own.samples_per_step * count // 12 for count in gpus]
    assert scaled[0].samples_per_second == own.samples_per_second


def test_a_collective_takes_what_its_narrowest_way_allows(own):
    """By hand: 1 GB gathered on 4 nodes of 8 H200, everything at its datasheet's pace and without latency."""
    machine = replace(PERFECT, num_nodes=4, gpus_per_node=8, hop_seconds_within=0.0, hop_seconds_between=0.0)
    gathered = Traffic("all_gather", "weights", 10**9, 1, 32)
    time = time_of_step(own.trace, replace(own.zero, overlaps=False), [gathered], own.kept, 1, machine)
    assert math.isclose(time.within, 1e9 * 31 / 32 / 450e9)
    assert math.isclose(time.between, 1e9 * 3 / 4 / 8 / 50e9)
    assert math.isclose(time.step - time.device, max(time.within, time.between))
    summed = Traffic("all_reduce", "gradients", 10**9, 1, 32)
    twice = time_of_step(own.trace, own.zero, [summed], own.kept, 1, machine)
    assert math.isclose(twice.within, 2 * time.within)
    assert math.isclose(twice.between, 2 * time.between)


def test_what_is_left_out_is_said(dialogues):
    plain = planner(dialogues)
    plain.plan(PERFECT)
    assert plain.warnings == []
    writing = planner(dialogues, objective__rollouts__max_new_tokens=8)
    writing.plan(PERFECT)
    assert len(writing.warnings) == 1
    assert "rollouts" in writing.warnings[0]


@pytest.mark.parametrize(
    "overrides",
    [
        {"objective__name": "masked_next_token", "objective__mask_token": "e", "model__reader": "llm"},
        {"objective__name": "simcse", "objective__negatives": "step", "model__reader": "llm"},
        {"objective__name": "balanced_teachers", "model__reader": "llm", "model__llm__bidirectional": False},
        {"objective__token_weight": 0.5},
    ],
    ids=lambda overrides: overrides.get("objective__name", "token_weight"),
)  # fmt: skip
def test_every_objective_can_be_planned(recipe, overrides):
    if overrides.get("objective__name") == "balanced_teachers":
        overrides = {**overrides, "model__trainable": "all", "model__lora__rank": 16, "model__lora__dropout": 0.05}
    plan = planner(recipe, **overrides).plan(PERFECT)
    assert plan.trace.num_trained > 0
    assert plan.trace.flops > 0
    assert {event.weight for event in plan.trace.events if event.kind == "gradient"} == {
        index for index, weight in enumerate(plan.trace.weights) if weight.trains
    }


@pytest.mark.parametrize("attention", ["flash_attention_2", "flash_attention_4"])
def test_flash_attention_is_planned_where_it_is_not(recipe, attention):
    fused, flash = (
        planner(recipe, training__precision="bf16", model__attention=name).plan(PERFECT) for name in ("sdpa", attention)
    )
    assert flash.memory == fused.memory
    assert flash.time == fused.time


@pytest.mark.parametrize("name", RECIPES.names)
def test_every_shipped_recipe_can_be_planned(name, tmp_path):
    """Models that ship in place of those of the hub, and of those that a page makes before."""
    places = {"encoder": ROOT / "assets" / "mt", "llm": ROOT / "assets" / "llm"}
    overrides = []
    for side, given in load_settings(name).model.given.items():
        place = places[side]
        if getattr(given, "from_scratch", False):  # a tokenizer alone
            place = shutil.copytree(
                place, tmp_path / side, ignore=shutil.ignore_patterns("*.safetensors", "config.json")
            )
        if "assets" not in given.name:
            overrides.append(f"model.{side}.name={place}")
    settings = load_settings(name, overrides)
    plan = Planner(settings, text_of(settings, None, None)).plan(PERFECT)
    assert plan.trace.num_trained > 0
    assert plan.samples_per_second > 0


def test_a_frozen_start_is_counted_and_said(dialogues):
    merged = planner(dialogues, model__start="first", model__merge_start_lora=True)
    fresh, frozen = (one.plan(PERFECT).trace for one in (planner(dialogues), merged))
    assert frozen.num_trained == fresh.num_trained
    lora = 2 * 2 * (2 * (24 + 24) + 2 * (24 + 12) + 3 * (24 + 40))  # layers, rank, in and out of each matrix
    assert frozen.num_frozen == fresh.num_frozen + lora
    assert merged.warnings == [
        "the frozen LoRA of model.start is counted with the rank of the one that trains, model.lora.rank=2"
    ]


def test_a_teacher_that_told_its_tokens_before_reads_nothing(dialogues):
    beside, before = (planner(dialogues, **given).plan(PERFECT) for given in ({}, {"data__targets": "told"}))
    assert before.trace.flops < beside.trace.flops
