"""The contrastive term of stage 1: that of one big eager batch in float64, however the texts lie on forwards and ranks."""

import math
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from mtllm_ds.cluster.launch import join_cluster
from mtllm_ds.data.stream.collate import Batch, Collator
from mtllm_ds.objectives.base import StepWeights, add_sums
from mtllm_ds.objectives.step_contrast import against_step, contrast, text_keys
from mtllm_ds.teachers.cached import CachedTeacher
from tests.distributed.ranks import ranks
from tests.objectives.test_pooled_alignment import LANGUAGES, PooledAlignment, alignment, trained_stack

WEIGHTS = {"sequence_weight": 0.7, "contrastive_weight": 0.3, "contrastive_temperature": 0.2}
STEP = StepWeights(None, lambda whole: nullcontext(), torch.device("cpu"))


def texts(seed, lengths, valid=None, read_by_llm=None):
    """A forward; `read_by_llm` names the seed of what the LLM reads (the same text in another language)."""
    ids, other = (torch.randint(3, 60, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(s))
                  for s in (seed, seed if read_by_llm is None else read_by_llm))  # fmt: skip
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    rows = len(lengths)
    return Batch(
        ids, mask, other, mask, torch.arange(rows) % 2,
        torch.arange(rows) < (rows if valid is None else valid), torch.arange(rows), cells=torch.arange(rows),
    )  # fmt: skip


def forwards_of_step():
    """Five forwards of 3, 1, 1, 2 and 0 texts, two of them translations of one; one brings a row that is not valid."""
    empty = Collator(pad_ids={"encoder": 1, "llm": 1})([])
    return [texts(0, (9, 7, 3)), texts(1, (6,)), texts(5, (6,), read_by_llm=1), texts(2, (5, 4, 2), valid=2), empty]


def eager_step():
    """Summed loss, gradients and share of found targets in float64, all texts in one graph."""
    objective = alignment(trained_stack().double(), **WEIGHTS).train()
    batches = [batch for batch in forwards_of_step() if batch.host.num_valid]
    student = torch.cat([objective.student.vectors(batch).double()[batch.valid] for batch in batches])
    target = torch.cat([objective.teacher.vectors(batch).double()[batch.valid] for batch in batches])
    mean = target.mean(0)
    cosines = functional.cosine_similarity((student - mean)[:, None], (target - mean)[None], dim=-1)
    same = torch.zeros(7, 7, dtype=torch.bool)
    same[3, 4] = same[4, 3] = True
    losses = -(cosines / 0.2).masked_fill(same, -math.inf).log_softmax(-1).diagonal()
    found = (cosines.masked_fill(same, -math.inf).argmax(-1) == torch.arange(7)).double().mean()
    whole = (0.7 * (student - target).square().mean(-1) + 0.3 * losses).sum()
    whole.backward()
    return whole.item(), losses.mean().item(), found.item(), gradients_of(objective)


def gradients_of(objective):
    return {name: p.grad.clone() for name, p in objective.named_parameters() if p.grad is not None}


def on_ranks(world_size, rank=None):
    """On a rank of a pool, or alone: its sums and gradients."""
    rank = join_cluster().rank if rank is None else rank
    objective = alignment(trained_stack(), **WEIGHTS).train()
    batches = forwards_of_step()[rank::world_size]
    batches += forwards_of_step()[-1:] * (-(-5 // world_size) - len(batches))  # equally many on every rank
    outputs = [objective(batch) for batch in objective.prepare(batches, STEP)]
    torch.stack([output.loss_sum for output in outputs]).sum().backward()
    sums = objective.empty_sums()
    for output in outputs:
        sums = add_sums(sums, output.sums)
    return sums, gradients_of(objective)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_a_step_on_any_number_of_ranks_is_one_big_eager_batch(world_size):
    loss, contrastive, found, gradients = eager_step()
    by_rank = [on_ranks(1, 0)] if world_size == 1 else ranks(world_size).run(on_ranks, world_size)
    sums = by_rank[0][0]
    for own, _ in by_rank[1:]:
        sums = add_sums(sums, own)
    figures = alignment(trained_stack(), **WEIGHTS).summarize(sums, LANGUAGES)
    assert float(sums["loss"]) == pytest.approx(loss, rel=1e-5)
    assert (figures["contrastive_loss"], figures["contrastive_found"]) == pytest.approx((contrastive, found), rel=1e-5)
    assert gradients
    for name, gradient in gradients.items():
        total = sum(own[name].double() for _, own in by_rank)
        torch.testing.assert_close(total, gradient, rtol=2e-3, atol=1e-6)
        assert gradient.abs().sum() > 0


def test_a_step_asks_its_teacher_once():
    objective = alignment(trained_stack(), **WEIGHTS).train()
    asked = []
    read = objective.teacher.read
    objective.teacher.read = lambda ids, mask: asked.append(len(ids)) or read(ids, mask)
    batches = forwards_of_step()
    for batch in objective.prepare(batches, STEP):
        objective(batch)
    assert asked == [len(batch) for batch in batches]


def test_cached_targets_need_no_pass_ahead():
    live = alignment(trained_stack(), **WEIGHTS).train()
    cached = PooledAlignment(live.student, CachedTeacher(32), len(LANGUAGES), **WEIGHTS).train()
    batches = forwards_of_step()
    told = [
        replace(batch, extras={"teacher_pooled": live.teacher.vectors(batch)}) if batch.host.num_valid else batch
        for batch in batches
    ]
    step = StepWeights(None, None, torch.device("cpu"))
    for one, other in zip(live.prepare(batches, STEP), cached.prepare(told, step), strict=True):
        torch.testing.assert_close(cached(other).loss_sum, live(one).loss_sum)


def test_without_a_weight_and_in_validation_nothing_is_compared():
    plain, batches = alignment(trained_stack()), forwards_of_step()
    assert plain.prepare(batches, None) is batches
    objective = alignment(trained_stack(), **WEIGHTS).eval()
    figures = objective.summarize(objective(batches[0]).sums, LANGUAGES)
    assert "contrastive_loss" not in figures
    assert figures["loss"] == pytest.approx(0.7 * plain.eval()(batches[0]).loss_sum.item() / 3, rel=1e-5)


def test_with_the_token_loss_the_teacher_tells_states_as_well():
    objective = alignment(trained_stack(), token_weight=1.0, contrastive_weight=1.0).train()
    batch = texts(0, (9, 7, 3))
    batch.extras["token_pairs"] = torch.tensor([[[1, 1]], [[2, 3]], [[0, 2]]])
    alone = alignment(trained_stack(), token_weight=1.0).train()(batch)
    [prepared] = objective.prepare([batch], STEP)
    output = objective(prepared)
    both = alone.loss_sum.double() + output.sums["contrastive_loss"]
    torch.testing.assert_close(output.loss_sum.double(), both, rtol=1e-5, atol=0)


def test_a_target_that_is_not_finite_stands_against_nobody():
    batches = [texts(seed, (6, 5)) for seed in range(3)]
    targets = [torch.randn(2, 8, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    students = [target + 0.1 for target in targets]
    targets[1][1, 3] = math.nan
    for index, (student, batch) in enumerate(zip(students, against_step(batches, targets), strict=True)):
        found = contrast(student.requires_grad_(), batch, 0.1)
        found.loss.sum().backward()
        assert found.loss.isfinite().all()
        assert student.grad.isfinite().all()
        if index != 1:
            keep = torch.cat([targets[0], targets[1][:1], targets[2]])
            cosines = functional.cosine_similarity(
                (student.detach() - keep.mean(0))[:, None], (keep - keep.mean(0))[None], dim=-1
            )
            places = [0, 1] if index == 0 else [3, 4]
            truth = -(cosines / 0.1).log_softmax(-1)[torch.arange(2), places]
            torch.testing.assert_close(found.loss.detach(), truth, rtol=1e-4, atol=1e-6)


def test_texts_are_told_apart_by_what_the_llm_reads():
    short, long = texts(1, (6, 2)), texts(5, (6, 9), read_by_llm=7)
    long.llm_ids[0, :6] = short.llm_ids[0]
    keys = torch.cat([text_keys(short), text_keys(long)])
    assert keys[0] == keys[2]
    assert len(set(keys.tolist())) == 3
    swapped = replace(short, llm_ids=short.llm_ids.flip(1), host=None)
    assert text_keys(swapped)[0] != keys[0]
