"""Negatives from the whole step: the loss and gradients of one big eager batch, however the texts lie on forwards and ranks."""

import math
from contextlib import nullcontext

import pytest
import torch
from torch.nn import functional

from mtllm_ds.cluster.launch import join_cluster
from mtllm_ds.config.sections import LLMSettings, LoraSettings
from mtllm_ds.data.stream.collate import Batch, Collator
from mtllm_ds.models.loading import load_llm
from mtllm_ds.models.lora import add_lora
from mtllm_ds.models.readers import LLMReader
from mtllm_ds.objectives.base import ObjectiveOutput, StepWeights
from mtllm_ds.objectives.simcse import SimCSE
from tests.distributed.ranks import ranks
from tests.fixtures.models import save_llama

TEMPERATURE = 0.5


@pytest.fixture(scope="module")
def llm(tmp_path_factory):
    return save_llama(tmp_path_factory.mktemp("llm"))


def objective_on(folder):
    adapted = add_lora(
        load_llm(LLMSettings(name=str(folder)), "sdpa", torch.float32), LoraSettings(rank=2, dropout=0.1), seed=0
    )
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(1))
    return SimCSE(LLMReader(adapted), 9, TEMPERATURE, attention_dropout=0.3, whole_step=True).train()


def texts(seed, lengths, valid):
    ids = torch.randint(10, 400, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(seed))
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    rows = len(lengths)
    return Batch(
        ids,
        mask,
        ids.clone(),
        mask,
        torch.zeros(rows, dtype=torch.int64),
        torch.arange(rows) < valid,
        torch.arange(rows),
        cells=torch.zeros(rows, dtype=torch.int64),
    )


def forwards_of_step():
    """Five forwards of 3, 1, 1, 2 and 0 texts, one of them twice; one brings a row that is not valid."""
    empty = Collator(pad_ids={"encoder": 1, "llm": 1})([])
    return [texts(0, (9, 7, 3), 3), texts(1, (6,), 1), texts(1, (6,), 1), texts(2, (5, 4, 2), 2), empty]


def vectors_of(objective, number, data):
    torch.manual_seed(number)
    return [objective.student.vectors(data)[data.valid] for _ in range(2)]


def previewing(preview):
    """What a step lends an objective that looks ahead."""
    return StepWeights(preview, nullcontext, torch.device("cpu"))


def gradients_of(objective):
    return {name: p.grad.clone() for name, p in objective.named_parameters() if p.grad is not None}


def eager_step(folder):
    """Loss by row and gradients of the sum, all texts in one graph, each forward with its own draws of dropout."""
    objective = objective_on(folder)
    pairs = [vectors_of(objective, number, data) for number, data in enumerate(forwards_of_step())]
    one, other = (torch.cat(side) for side in zip(*pairs, strict=True))
    cosines = functional.cosine_similarity(one[:, None], other[None, :], dim=-1)
    losses = -(cosines / TEMPERATURE).log_softmax(-1).diagonal()
    losses.sum().backward()
    return losses.detach(), gradients_of(objective)


def two_passes(folder, world_size, rank=None):
    """On a rank of a pool, or alone: its summed loss, count and gradients."""
    rank = join_cluster().rank if rank is None else rank
    objective = objective_on(folder)
    own = list(enumerate(forwards_of_step()))[rank::world_size]
    own += [(99, forwards_of_step()[-1])] * (-(-5 // world_size) - len(own))  # equally many on every rank

    def forward(index, data):
        torch.manual_seed(own[index][0])
        return objective(data)

    prepared = objective.prepare([data for _, data in own], previewing(torch.no_grad()(forward)))
    outputs = [forward(index, data) for index, data in enumerate(prepared)]
    torch.stack([output.loss_sum for output in outputs]).sum().backward()
    sums = {name: sum(float(output.sums[name]) for output in outputs) for name in ("loss", "count", "similarity")}
    assert sums["count"] == sum(objective.count(data) for _, data in own)
    return sums, gradients_of(objective)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_a_step_on_any_number_of_ranks_is_one_big_eager_batch(llm, world_size):
    losses, gradients = eager_step(llm)
    found = [two_passes(llm, 1, 0)] if world_size == 1 else ranks(world_size).run(two_passes, llm, world_size)
    assert sum(sums["loss"] for sums, _ in found) == pytest.approx(float(losses.sum()), rel=1e-5)
    assert sum(sums["count"] for sums, _ in found) == len(losses) == 7
    assert 0 < sum(sums["similarity"] for sums, _ in found) / 7 < 0.9999
    for name, gradient in gradients.items():
        total = sum(own[name] for _, own in found)
        torch.testing.assert_close(total, gradient, rtol=1e-4, atol=1e-6)
    assert all(gradient.abs().sum() > 0 for gradient in gradients.values())


def test_a_vector_that_is_not_finite_is_told_by_its_own_rank_alone(llm):
    """The guard names the rank whose loss is not finite: it must not be everybody's."""
    objective, batches = objective_on(llm), forwards_of_step()
    vectors = [torch.randn(len(data), 2, 8, generator=torch.Generator().manual_seed(0)) for data in batches]
    vectors[2][0, 1] = math.nan
    prepared = objective.prepare(
        batches, previewing(lambda index, data: ObjectiveOutput(torch.zeros(()), {}, vectors[index]))
    )
    losses = [data.extras["simcse_row_loss"] for data in prepared]
    assert [bool(loss.isfinite().all()) for loss in losses] == [True, True, False, True, True]


def test_validation_takes_the_texts_of_a_batch_whole(llm):
    objective = objective_on(llm).eval()
    data = texts(0, (9, 7, 3, 2), 3)
    with torch.no_grad():
        (one, _) = vectors_of(objective, 0, data)
        cosines = functional.cosine_similarity(one[:, None], one[None, :], dim=-1)
        truth = -(cosines / TEMPERATURE).log_softmax(-1).diagonal().sum()
        assert objective(data).loss_sum.item() == pytest.approx(truth.item(), rel=1e-5)


def test_negatives_of_a_cell_need_no_second_pass(llm):
    objective = objective_on(llm)
    objective.whole_step = False
    batches = forwards_of_step()
    assert objective.prepare(batches, None) is batches
