"""What a student writes in training: a loop by hand's tokens, on any ranks, and no trace of it in the steps that follow."""

import json

import pytest
import torch

from mtllm_ds.cluster.launch import join_cluster
from mtllm_ds.cluster.outside_forward import outside_forward
from mtllm_ds.cluster.zero import partitioned_loading
from mtllm_ds.data.stream.stream import EvalStream
from mtllm_ds.models.build import build_reader, dtype_of
from mtllm_ds.models.lm_head import load_output_head
from mtllm_ds.models.readers import token_embeddings
from mtllm_ds.models.rollouts import StudentWriter
from mtllm_ds.models.sampling import Sampling, gumbel_noise
from mtllm_ds.objectives.pooled_alignment import PooledAlignment
from mtllm_ds.preflight.plan import check_run
from mtllm_ds.teachers.frozen_self import FrozenSelf
from mtllm_ds.training.engine import Engine
from tests.distributed.ranks import PARTITIONED, ranks
from tests.fixtures.runs import make_run, settings_of

STEPS, END, NEW = 5, 1, 7


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("rollouts"))


class WithHead(PooledAlignment):
    """Stage 1 with the head beside it: a step whose gathers are known, and all that a writer needs."""

    def __init__(self, student, head):
        super().__init__(student, FrozenSelf(student), 1)
        self.lm_head = head


def built(recipe, world_size=1, **overrides):
    """Settings, plan, and the objective under them."""
    settings = settings_of(recipe, model__llm__bidirectional="false", **overrides)
    plan = check_run(settings, world_size)
    with partitioned_loading(plan.ds_config):
        student = build_reader(settings, torch.device("cpu"))
    for name, parameter in student.named_parameters():
        if "lora_B" in name:  # as if trained
            parameter.data = (
                torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))).to(parameter.dtype)
                * 0.1
            )
    head = load_output_head(settings.model.given_llm, student, dtype_of(settings))
    return settings, plan, WithHead(student, head)


def writer_of(settings, objective, gather):
    return StudentWriter(
        settings.model.given_llm, objective.student, objective.lm_head, Sampling(temperature=1.2, top_p=0.9),
        reads_prompt=False, end_ids=[END], gather=gather,
    )  # fmt: skip


def batches_of(recipe, rank=0, world_size=1):
    return list(EvalStream(recipe.parent / "validation", batch_size=6 // world_size, rank=rank, world_size=world_size))


def seeds_of(batch):
    return [101 * max(0, sample) + 7 for sample in batch.host.sample_ids]


def rooms_of(batch):
    return [NEW - sample % 3 if sample >= 0 else 0 for sample in batch.host.sample_ids]


def told(recipe, gather, writes, checkpointing, deepspeed=PARTITIONED, precision="fp32"):
    """On a rank: losses, gathers of each step and the responses by sample and step."""
    from deepspeed.runtime.zero import partition_parameters

    gathers, original = [0], partition_parameters._dist_allgather_fn

    def counting(*args, **kwargs):
        gathers[0] += 1
        return original(*args, **kwargs)

    partition_parameters._dist_allgather_fn = counting
    cluster = join_cluster()
    settings, plan, objective = built(
        recipe, cluster.world_size, training__deepspeed=deepspeed, training__precision=precision
    )
    if checkpointing:
        objective.student.trained_model.gradient_checkpointing_enable({"use_reentrant": False})
    engine = Engine(objective.train(), settings, plan.ds_config)
    writer = writer_of(settings, objective, gather)
    losses, counts, written = [], [], {}
    data = batches_of(recipe, cluster.rank, cluster.world_size)
    try:
        for step in range(STEPS):
            engine.set_step(step)
            batches = [data[(engine.micro_batches * step + turn) % len(data)] for turn in range(engine.micro_batches)]
            if writes:
                with outside_forward(engine.deepspeed, writer.whole):
                    for batch in batches:
                        found = writer.write(batch, seeds_of(batch), rooms_of(batch))
                        written |= {
                            (step, sample): ids
                            for sample, ids in zip(batch.host.sample_ids, found, strict=True)
                            if sample >= 0
                        }
            before = gathers[0]
            for batch in batches:
                output = engine.forward(batch)
                engine.backward(output.loss_sum, torch.tensor(12.0))
                engine.step()
                losses.append(float(output.loss_sum))
            counts.append(gathers[0] - before)
        assert objective.student.trained_model.training
        engine.close()
    finally:
        partition_parameters._dist_allgather_fn = original
    return losses, counts, written


@torch.no_grad()
def by_hand(objective, batch):
    """Each sample alone, the whole text anew for each token: warped logits and noise, without transformers' warpers."""
    student, found = objective.student.eval(), {}
    for row, (sample, seed, room) in enumerate(
        zip(batch.host.sample_ids, seeds_of(batch), rooms_of(batch), strict=True)
    ):
        length = batch.host.num_tokens["encoder"][row]
        read = student.embeddings(batch.encoder_ids[row : row + 1, :length], batch.encoder_mask[row : row + 1, :length])
        ids = []
        while len(ids) < room and END not in ids:
            logits = objective.lm_head(student.llm.base_model.model(inputs_embeds=read).last_hidden_state[0, -1]) / 1.2
            chances, order = logits.softmax(-1).sort(descending=True)
            kept = order[chances.cumsum(0) - chances < 0.9]
            noise = gumbel_noise(torch.tensor([seed]), len(ids), len(logits))[0]
            ids.append(int(kept[(logits + noise)[kept].argmax()]))
            read = torch.cat([read, token_embeddings(student.llm, torch.tensor([ids[-1:]]))], 1)
        found[sample] = ids
    return found


def test_tokens_are_those_of_a_loop_by_hand(recipe):
    settings, _, objective = built(recipe, training__deepspeed="ds_configs/zero2.json")
    writer = writer_of(settings, objective.train(), "whole")
    for batch in batches_of(recipe)[:2]:
        found = dict(zip(batch.host.sample_ids, writer.write(batch, seeds_of(batch), rooms_of(batch)), strict=True))
        assert all(module.training for module in objective.student.llm.modules())
        assert found == by_hand(objective, batch)
        objective.train()
        assert len({len(ids) for ids in found.values()}) > 1


def test_settings_for_answers_to_users_are_left_aside(recipe):
    settings, _, objective = built(recipe, training__deepspeed="ds_configs/zero2.json")
    batch, place = batches_of(recipe)[0], recipe.parent / "llm" / "generation_config.json"
    given = batch, seeds_of(batch), rooms_of(batch)
    expected = writer_of(settings, objective, "whole").write(*given)
    banned = sorted({ids[0] for ids in expected if ids})
    before = place.read_text() if place.exists() else None
    place.write_text(
        json.dumps({"eos_token_id": END, "repetition_penalty": 5.0, "min_new_tokens": NEW, "suppress_tokens": banned})
    )
    try:
        assert writer_of(settings, objective, "whole").write(*given) == expected
    finally:
        place.unlink() if before is None else place.write_text(before)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_two_ranks_write_the_same_and_their_steps_are_as_if_they_had_not(recipe, checkpointing):
    plain = ranks(2).run(told, recipe, "whole", False, checkpointing)
    found = {gather: ranks(2).run(told, recipe, gather, True, checkpointing) for gather in ("whole", "layers")}
    for answers in found.values():
        for (losses, counts, _), (losses_without, counts_without, _) in zip(answers, plain, strict=True):
            assert losses == losses_without
            assert counts[2:] == counts_without[2:]
    merged = {gather: {**answers[0][2], **answers[1][2]} for gather, answers in found.items()}
    assert merged["whole"] == merged["layers"]
    _, _, objective = built(recipe, training__deepspeed="ds_configs/zero2.json")
    first = {sample: ids for batch in batches_of(recipe) for sample, ids in by_hand(objective, batch).items()}
    at_start = {sample: ids for (step, sample), ids in merged["whole"].items() if step == 0}
    assert at_start
    assert at_start == {sample: first[sample] for sample in at_start}
