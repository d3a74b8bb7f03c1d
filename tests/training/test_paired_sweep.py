"""Teacher and student side by side through the loop on two ranks: what ZeRO-3 gathers, counted, and the losses of two passes."""

import json

import pytest
import torch
from rich.console import Console
from transformers import LlamaConfig, LlamaForCausalLM

from mtllm_ds.cluster.launch import join_cluster
from mtllm_ds.training.assemble import open_run
from tests.distributed.ranks import PARTITIONED, RankError, ranks
from tests.fixtures.dialogue_runs import PACKED, make_dialogue_run
from tests.fixtures.models import llama_config
from tests.fixtures.runs import learnt, losses_of, make_run, rows_of, settings_of

DEPTH, STEPS = 12, 4


def deepen(recipe):
    """The same run on an LLM of twelve layers."""
    torch.manual_seed(1)
    config = LlamaConfig(**llama_config().to_dict() | {"num_hidden_layers": DEPTH, "initializer_range": 0.1})
    LlamaForCausalLM(config).save_pretrained(recipe.parent / "llm")
    return recipe


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return deepen(make_run(tmp_path_factory.mktemp("texts")))


@pytest.fixture(scope="module")
def dialogues(tmp_path_factory):
    return deepen(make_dialogue_run(tmp_path_factory.mktemp("dialogues")))


def gathered(recipe, overrides, as_leaves):
    """On a rank: of the third step and later, (calls, bytes) of a step's gathers by part of the model, each step a dict.

    With `as_leaves` layers are gathered in one call each though the teacher makes a pass of its own.
    """
    from deepspeed.runtime.zero import partition_parameters
    from deepspeed.runtime.zero.parameter_offload import ZeroParamStatus
    from deepspeed.runtime.zero.partitioned_param_coordinator import PartitionedParameterCoordinator as Coordinator

    from mtllm_ds.cluster.leaves import gather_as_one
    from mtllm_ds.models.paired import layers_of
    from mtllm_ds.models.readers import base_of
    from mtllm_ds.training import assemble

    name = "_PartitionedParameterCoordinator__all_gather_params_"
    gather, collective, make_teacher = (
        getattr(Coordinator, name),
        partition_parameters._dist_allgather_fn,
        assemble.teacher_beside,
    )
    current, steps, parts, inside = [], [], {}, []

    def make_with_leaves(settings, reader, *others):
        owner, list_name = layers_of(base_of(reader.llm))
        gather_as_one(owner.get_submodule(list_name))
        return make_teacher(settings, reader, *others)

    def spy(self, params, is_forward, **options):
        (part,) = {parts[p.ds_id] for p in params if p.ds_status == ZeroParamStatus.NOT_AVAILABLE} or {""}
        current.append(part)
        gather(self, params, is_forward, **options)
        current.pop()

    def counted(own, whole, group=None):
        if inside and current:  # not what is gathered for validation or a checkpoint
            calls, num_bytes = steps[-1].get(current[-1], (0, 0))
            steps[-1][current[-1]] = (calls + 1, num_bytes + whole.numel() * whole.element_size())
        return collective(own, whole, group)

    assemble.teacher_beside = make_with_leaves if as_leaves else make_teacher
    setattr(Coordinator, name, spy)
    partition_parameters._dist_allgather_fn = counted
    try:
        trainer = open_run(settings_of(recipe, **overrides), join_cluster(), False, Console(quiet=True))
        parts.update({p.ds_id: part_of(n) for n, p in trainer.objective.named_parameters()})
        take = trainer._take_step

        def take_counted(*step):
            steps.append({})
            inside.append(True)
            take(*step)
            inside.clear()

        trainer._take_step = take_counted
        trainer.run()
        trainer.close()
    finally:
        setattr(Coordinator, name, gather)
        partition_parameters._dist_allgather_fn, assemble.teacher_beside = collective, make_teacher
    return steps[2:]


def part_of(name):
    if ".layers." in name and "llm" in name:
        return "layers"
    return next((part for part in ("encoder", "connector", "losses", "embed_tokens", "norm") if part in name), name)


RUNS = {
    "stage 1, padded": ("texts", {}),
    "stage 1, packed, checkpointed": ("texts", {**PACKED, "training__activation_checkpointing": "true"}),
    "stack, packed": ("dialogues", PACKED),
    "LLM alone, checkpointed": ("dialogues", {"model__reader": "llm", "training__activation_checkpointing": "true"}),
}


@pytest.mark.parametrize("name", RUNS)
def test_layers_are_gathered_twice_a_forward_and_not_three_times(request, name):
    kind, overrides = RUNS[name]
    recipe = request.getfixturevalue(kind)
    found, runs = {}, {}
    for paired in (True, False):
        runs[paired] = overrides | {
            "run__output_dir": str(recipe.parent / f"{name.replace(',', '').replace(' ', '_')}_{paired}"),
            "run__max_steps": STEPS, "run__validate_every": STEPS, "run__save_every": STEPS,
            "training__deepspeed": PARTITIONED, "model__paired_sweep": json.dumps(paired), "data__cells_per_forward": 3,
            "training__whole_frozen_gib": 0,
        }  # fmt: skip
        one, other = ranks(2).run(gathered, recipe, runs[paired], not paired)
        assert one == other
        assert all(step == one[0] for step in one) or "packed" in name
        found[paired] = one
    for beside, apart in zip(found[True], found[False], strict=True):
        assert beside["layers"][0] == 2 * DEPTH
        assert apart["layers"][0] == 3 * DEPTH
        assert 3 * beside["layers"][1] == 2 * apart["layers"][1]
        assert beside.get("losses", (1, 0))[0] == 1
        # A stack's LLM reads tokens for the teacher, and responses; in backward nobody reads the table.
        assert beside["embed_tokens"][0] == (1 if kind == "texts" else 2)
        assert {part: counts for part, counts in beside.items() if part != "layers"} == {
            part: counts for part, counts in apart.items() if part != "layers"
        }
    rows = [rows_of(settings_of(recipe, **runs[paired])) for paired in (True, False)]
    assert [learnt(row) for row in rows[0]] == [learnt(row) for row in rows[1]]
    assert len(losses_of(settings_of(recipe, **runs[True]))) == STEPS


def teacher_with(recipe, overrides, failing_rank):
    """On a rank: the kind of teacher in a run of which one rank cannot try the pairing."""
    from mtllm_ds.models.pairing import Pairing
    from mtllm_ds.preflight import paired

    cluster, pairing_of = join_cluster(), paired.pairing_of
    if cluster.rank == failing_rank:
        paired.pairing_of = lambda *_: Pairing(failure="MemoryError: ")
    try:
        trainer = open_run(settings_of(recipe, **overrides), cluster, False, Console(quiet=True))
    finally:
        paired.pairing_of = pairing_of
    try:
        if (kind := type(trainer.objective.teacher).__name__) == ("PairedSelf" if failing_rank else "FrozenSelf"):
            trainer.run()  # ranks of two kinds would wait for each other
    finally:
        trainer.close()
    return kind


@pytest.mark.parametrize(("failing_rank", "kind"), [(0, "FrozenSelf"), (1, "PairedSelf")])
def test_where_one_rank_cannot_try_it_all_take_the_word_of_rank_0(texts, failing_rank, kind):
    overrides = {
        "run__output_dir": str(texts.parent / f"failing_{failing_rank}"), "run__max_steps": 2, "run__validate_every": 2,
        "run__save_every": 2, "training__deepspeed": PARTITIONED, "model__paired_sweep": "auto",
        "data__cells_per_forward": 3,
    }  # fmt: skip
    assert ranks(2).run(teacher_with, texts, overrides, failing_rank) == [kind, kind]
    assert len(losses_of(settings_of(texts, **overrides))) == 2


def warnings_of_one_that_asks_by_itself(recipe, overrides):
    """On a rank: what a run warns of whose objective, as one from elsewhere may, takes no notice of its student's pass."""
    from mtllm_ds.teachers.base import Teacher
    from mtllm_ds.teachers.paired_self import PairedSelf

    trainer = open_run(settings_of(recipe, **overrides), join_cluster(), False, Console(quiet=True))
    told, beside = [], PairedSelf.vectors_beside
    trainer.warn = told.append
    PairedSelf.vectors_beside = Teacher.vectors_beside
    try:
        trainer.run()
    finally:
        PairedSelf.vectors_beside = beside
        trainer.close()
    return told


def test_an_objective_that_asks_its_teacher_by_itself_is_told(texts):
    overrides = {
        "run__output_dir": str(texts.parent / "by_itself"), "run__max_steps": 2, "run__validate_every": 2,
        "run__save_every": 2, "training__deepspeed": PARTITIONED, "data__cells_per_forward": 3,
    }  # fmt: skip
    (told,) = ranks(1).run(warnings_of_one_that_asks_by_itself, texts, overrides)
    (line,) = told
    assert line.startswith("no teacher beside the student: objective.name=pooled_alignment asks its teacher by itself")
    demanded = overrides | {"run__output_dir": str(texts.parent / "demanded"), "model__paired_sweep": "true"}
    with pytest.raises(
        RankError, match=r"^UserError: model\.paired_sweep=true: has no effect: objective\.name=pooled_"
    ):
        ranks(1).run(warnings_of_one_that_asks_by_itself, texts, demanded)
