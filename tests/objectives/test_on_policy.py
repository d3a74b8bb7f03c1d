"""The student's own responses in a batch: those of a loop by hand, behind the teacher's prompt, padded and packed, counted."""

from contextlib import nullcontext

import pytest
import torch

from mtllm_ds.config.sections import LLMSettings
from mtllm_ds.config.token_distillation import Rollouts
from mtllm_ds.data.stream.collate import Collator
from mtllm_ds.data.stream.responses import with_responses
from mtllm_ds.draws import seed_of
from mtllm_ds.models.continuation import num_response_tokens
from mtllm_ds.models.readers import LLMReader, token_embeddings
from mtllm_ds.models.rollouts import StudentWriter
from mtllm_ds.models.sampling import Sampling, gumbel_noise
from mtllm_ds.objectives.base import StepWeights
from mtllm_ds.objectives.on_policy import OnPolicy
from mtllm_ds.objectives.token_kl_head import TokenLoss
from tests.objectives.test_token_distillation import READERS, batch, folder, objective

__all__ = ["folder"]
END, NEW, SEED, MOST = 1, 6, 11, 96
STEP = StepWeights(None, lambda whole: nullcontext(), torch.device("cpu"))


def on_policy(folder, told, kind, most=MOST, **settings):
    rollouts = Rollouts(max_new_tokens=NEW, temperature=1.3, **settings)
    writer = StudentWriter(
        LLMSettings(name=str(folder / "llm"), bidirectional=False), told.student, told.losses.head,
        Sampling(temperature=1.3), reads_prompt=READERS[kind][1], end_ids=[END], gather="whole",
    )  # fmt: skip
    return OnPolicy(rollouts, writer, most)


@torch.no_grad()
def by_hand(told, kind, data, row, step_seed=SEED, most=NEW):
    """One sample alone: everything that was written is read anew for each token."""
    student, read = told.student.eval(), []
    if READERS[kind][0]:
        length = data.host.num_tokens["encoder"][row]
        ids = data.encoder_ids[row : row + 1, :length]
        read.append(student.connector(student.encoder(ids, torch.ones_like(ids))))
    if READERS[kind][1]:
        ids = data.extras["student_prompt_ids"][row : row + 1, : data.host.columns["student_prompt_ids"][row]]
        read.append(token_embeddings(student.llm, ids))
    seed = torch.tensor([seed_of(step_seed, data.host.sample_ids[row], 1)])
    rows, ids = torch.cat(read, 1), []
    while len(ids) < most and END not in ids:
        logits = told.losses.head(student.llm.base_model.model(inputs_embeds=rows).last_hidden_state[0, -1])
        ids.append(int((logits / 1.3 + gumbel_noise(seed, len(ids), len(logits))[0]).argmax()))
        rows = torch.cat([rows, token_embeddings(student.llm, torch.tensor([ids[-1:]]))], 1)
    return ids


def of_row(data, row):
    return data.llm_ids[row, : data.host.num_tokens["llm"][row]].tolist()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", READERS)
def test_responses_are_the_students_own_behind_the_teachers_prompt(folder, kind, packed):
    told, data = objective(folder, kind, TokenLoss()), batch(folder / "shards", packed)
    (found,) = on_policy(folder, told.train(), kind).rewritten([data], STEP, SEED)
    starts = data.host.columns["response_start"]
    for row in range(len(data)):
        response = by_hand(told, kind, data, row)
        assert of_row(found, row) == of_row(data, row)[: starts[row]] + response
        assert num_response_tokens(found)[row] == len(response)
    assert found.llm_mask.sum(1).tolist() == list(found.host.num_tokens["llm"])
    assert told.count(found) == int(num_response_tokens(found).sum())
    if packed:
        layout = found.packed.llm
        together = [of_row(found, row) for row in range(len(found))]
        assert layout.of_tokens(found.packed.llm_ids).tolist() == [token for row in together for token in row]
        assert torch.diff(layout.cu_seqlens).tolist() == list(map(len, together))
    told.train()
    output = told(found)
    assert torch.isfinite(output.loss_sum)
    assert float(output.sums["count"]) == told.count(found)


def test_a_share_of_the_samples_is_the_students_and_the_rest_is_the_datas(folder):
    told, data = objective(folder, "llm", TokenLoss()), batch(folder / "shards", False)
    writer = on_policy(folder, told, "llm", share=0.5)
    seen = []
    for seed in range(40):
        (found,) = writer.rewritten([data], STEP, seed)
        own = [of_row(found, row) != of_row(data, row) for row in range(len(data))]
        assert own == [seed_of(seed, sample, 0) < 2**62 for sample in data.host.sample_ids]
        seen += own
    assert 0.4 < sum(seen) / len(seen) < 0.6


def test_what_is_written_does_not_depend_on_neighbours(folder):
    told = objective(folder, "llm", TokenLoss())
    together = on_policy(folder, told, "llm").rewritten([batch(folder / "shards", False)], STEP, SEED)[0]
    for cells in (((4, 5), (6,)), ((2,),)):
        (alone,) = on_policy(folder, told, "llm").rewritten([batch(folder / "shards", False, cells)], STEP, SEED)
        for row, sample in enumerate(alone.host.sample_ids):
            assert of_row(alone, row) == of_row(together, sample)


def test_responses_end_where_the_rows_are_full(folder):
    told, data = objective(folder, "llm", TokenLoss()), batch(folder / "shards", False)
    longest = max(map(max, (data.host.columns[name] for name in ("response_start", "student_prompt_ids"))))
    (found,) = on_policy(folder, told, "llm", most=longest + 2).rewritten([data], STEP, SEED)
    free = on_policy(folder, told, "llm").rewritten([data], STEP, SEED)[0]
    for row, start in enumerate(data.host.columns["response_start"]):
        room = longest + 2 - max(start, data.host.columns["student_prompt_ids"][row])
        assert of_row(found, row) == of_row(free, row)[: start + min(NEW, room)]
    assert found.llm_ids.shape[1] <= longest + 2


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", READERS)
def test_a_forward_without_samples_writes_nothing_and_runs_the_same_modules(folder, kind, packed):
    told = objective(folder, kind, TokenLoss())
    empty = Collator(pad_ids={"encoder": 1, "llm": 1}, packing_buckets=2 if packed else 0)([])
    ran = []
    for module in told.student.modules():
        module.register_forward_pre_hook(lambda module, given: ran.append(type(module).__name__))
    (found,) = on_policy(folder, told, kind).rewritten([empty], STEP, SEED)
    assert found is empty
    assert {"LlamaDecoderLayer", "Embedding" if isinstance(told.student, LLMReader) else "M2M100EncoderLayer"} <= set(
        ran
    )
    assert told.count(found) == 0
    assert float(told.train()(found).loss_sum.detach()) == 0.0


def test_responses_of_others_leave_the_rest_of_a_batch(folder):
    data = batch(folder / "shards", True)
    same = with_responses(data, [None] * len(data))
    assert torch.equal(same.llm_ids * same.llm_mask, data.llm_ids * data.llm_mask)
    assert torch.equal(same.packed.llm.source, data.packed.llm.source)
    assert torch.equal(same.packed.llm.mask * same.packed.llm_ids, data.packed.llm.mask * data.packed.llm_ids)
    assert same.host.num_tokens == data.host.num_tokens
    assert same.encoder_ids is data.encoder_ids
