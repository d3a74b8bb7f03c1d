"""FLOPs of real micro-batches against those that torch counts operator by operator (`FlopCounterMode`)."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mtllm_ds.data.columns import ENCODER_IDS, LLM_IDS
from mtllm_ds.data.shards.blocks import Ragged
from mtllm_ds.data.stream.collate import Collator, Sample
from mtllm_ds.data.stream.stream import TrainStream
from mtllm_ds.models.build import arrange_reader, build_reader
from mtllm_ds.objectives.base import Parts, build_objective
from mtllm_ds.observe.flops import StepFlops, note_padded
from mtllm_ds.planning.paper import batch_on_paper, objective_on_paper, text_of
from mtllm_ds.planning.rehearsal import rehearse
from mtllm_ds.preflight.plan import check_run
from mtllm_ds.teachers.beside import teacher_beside
from tests.fixtures.dialogue_runs import PACKED, make_dialogue_run
from tests.fixtures.runs import make_run, settings_of

EAGER = {"model__attention": "eager"}
CHECKPOINTED = {"training__activation_checkpointing": "true"}
UNFROZEN = {"model__encoder__num_trainable_layers": "1"}
FROZEN_CONNECTOR = {"model__connector__trainable": "false"}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("flops"))


@pytest.fixture(scope="module")
def dialogues(tmp_path_factory):
    return make_dialogue_run(tmp_path_factory.mktemp("dialogues"))


def prepared(recipe, **overrides):
    """A run's objective on the CPU, and its plan."""
    settings = settings_of(recipe, **{**EAGER, **overrides})
    plan = check_run(settings, 1)
    reader = build_reader(settings, torch.device("cpu"))
    arrange_reader(reader, settings)
    parts = Parts(
        settings=settings,
        student=reader,
        teacher=teacher_beside(settings, reader, None, plan.pairing),
        num_languages=len(plan.train.languages),
        chat=plan.train.chat,
    )
    return build_objective(parts).train(), plan


def take(objective, batch, counted):
    with counted.micro_batch():
        objective.count(batch)
        objective(batch).loss_sum.backward()


def both(objective, batches):
    """Counted by us and by torch; the first batch shows us which products there are."""
    counted, mode = StepFlops(), FlopCounterMode(display=False)
    take(objective, batches[0], counted)
    counted.take()
    with mode:
        for batch in batches:
            take(objective, batch, counted)
    assert counted.unseen == ()
    return counted.take(), mode.get_total_flops()


RUNS = {
    "LoRA and connector": {},
    "checkpointed": CHECKPOINTED,
    "packed": PACKED,
    "packed, checkpointed": PACKED | CHECKPOINTED,
    "LoRA alone": FROZEN_CONNECTOR,
    "encoder in part": UNFROZEN,
    "encoder in part, packed": UNFROZEN | PACKED,
    "LoRA on some layers": {"model__lora__target_modules": "[o_proj, down_proj]", **FROZEN_CONNECTOR},
    "teacher by itself": {"model__paired_sweep": "false"},
    "teacher by itself, checkpointed": {"model__paired_sweep": "false", **CHECKPOINTED},
}


@pytest.mark.parametrize("name", RUNS)
def test_hardware_flops_are_those_of_the_operators_that_ran(recipe, name):
    objective, plan = prepared(recipe, **RUNS[name])
    steps = iter(TrainStream(plan.train, plan.settings.data, seed=1))
    counted, by_operator = both(objective, [batch for _ in range(2) for batch in next(steps).micro_batches])
    assert counted.hardware == by_operator
    assert counted.model < counted.hardware


def samples(lengths):
    """Samples of (encoder, LLM) lengths, of made-up ids."""
    generator = np.random.default_rng(0)
    block = {
        column: Ragged.from_rows([generator.integers(4, 400, own[side]) for own in lengths], np.uint32)
        for side, column in enumerate((ENCODER_IDS, LLM_IDS))
    }
    return [Sample(block, row, 0, row) for row in range(len(lengths))]


def test_model_flops_are_those_of_each_sample_alone_however_they_are_laid(recipe):
    """Of a sample alone nothing is padding: its operators are the truth."""
    own = samples([(7, 5), (12, 9), (4, 14), (9, 8)])
    pad_ids = {"encoder": 1, "llm": 1}
    padded, packed = (Collator(pad_ids=pad_ids, packing_buckets=buckets) for buckets in (0, 2))
    objective, _ = prepared(recipe)
    alone, by_operator = both(objective, [padded([[sample]]) for sample in own])
    assert alone.model == alone.hardware == by_operator
    recomputing, _ = prepared(recipe, **CHECKPOINTED)
    layouts = padded([own]), packed([own[:3], own[3:]]), packed([own])
    for form, batch in [*((objective, batch) for batch in layouts), (recomputing, padded([own]))]:
        counted, _ = both(form, [batch])
        assert counted.model == by_operator
        assert counted.hardware > by_operator


HEADS = {
    "cross-entropy": {"objective__kl_weight": "0", "objective__nll_weight": "1"},
    "divergence": {"objective__clip": "0.5"},
}
"""Forms whose products are plain operators"""


@pytest.mark.parametrize("name", HEADS)
def test_the_head_is_counted(dialogues, name):
    objective, plan = prepared(dialogues, **HEADS[name])
    counted, by_operator = both(
        objective, next(iter(TrainStream(plan.train, plan.settings.data, seed=1))).micro_batches
    )
    assert counted.hardware == by_operator


@pytest.mark.parametrize("overrides", [{}, PACKED, CHECKPOINTED], ids=["padded", "packed", "checkpointed"])
def test_a_run_counts_what_its_plan_counts(dialogues, overrides):
    """Fused attention and the fused loss, of which torch's counter knows nothing."""
    settings = settings_of(dialogues, **overrides)
    text = text_of(settings, None, None)
    objective, _ = prepared(dialogues, **overrides, model__attention="sdpa")
    batch = batch_on_paper(settings, text, settings.data.cells_per_forward, objective.student.hidden_size)
    trace = rehearse(objective_on_paper(settings, text), batch, settings.optim)
    counted = StepFlops()
    take(objective, batch, counted)
    assert counted.take().hardware == trace.flops


def test_layers_that_are_compiled_are_counted_too():
    """Which runs them once as they are written, and compiles no hook: what is compiled then is all that runs from there on."""
    model, mask, states = torch.nn.Sequential(torch.nn.Linear(4, 8)), torch.ones(2, 5), torch.randn(2, 5, 4)
    compiled, counted, frames = torch.compile(model.forward, backend="eager"), StepFlops(), []
    torch._dynamo.reset()
    for _ in range(3):
        with counted.micro_batch():
            note_padded(model, mask)
            compiled(states).sum().backward()
        frames.append(torch._dynamo.utils.counters["frames"]["ok"])
        assert counted.take().model == 2 * 2 * (2 * 5) * 4 * 8
    assert frames[1] - frames[0] == 1
    assert frames[2] == frames[1]
    assert not model[0]._forward_hooks
