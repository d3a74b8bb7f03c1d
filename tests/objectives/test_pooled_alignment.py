"""Stage 1's loss: exactly zero for the teacher itself, float64 transformers otherwise, FVU from its definition."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from mtllm_ds.config.sections import LoraSettings
from mtllm_ds.data.stream.collate import Batch
from mtllm_ds.data.stream.packing import pack_batch
from mtllm_ds.models.lora import add_lora
from mtllm_ds.models.stacked import StackedModel
from mtllm_ds.objectives.base import add_sums
from mtllm_ds.objectives.pooled_alignment import PooledAlignment
from mtllm_ds.teachers.frozen_self import FrozenSelf
from tests.models.test_stacked import family_model, own_embeddings_stack

LANGUAGES = ("eng_Latn", "deu_Latn")
POOLED = {
    "mean": lambda tokens: tokens.mean(0),
    "last": lambda tokens: tokens[-1],
    "weighted_mean": lambda tokens: (
        sum(i * token for i, token in enumerate(tokens, 1)) / sum(range(1, len(tokens) + 1))
    ),
}


def batch(rows=4, seed=0, valid=None):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 60, (rows, 8), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    return Batch(
        encoder_ids=ids, encoder_mask=mask, llm_ids=ids.clone(), llm_mask=mask.clone(),
        languages=torch.arange(rows) % 2, valid=torch.ones(rows, dtype=torch.bool) if valid is None else valid,
        sample_ids=torch.arange(rows), cells=torch.arange(rows),
    )  # fmt: skip


class Shifted(nn.Module):
    """An encoder whose states differ from the LLM's embeddings, so that the loss is not zero."""

    def __init__(self, table):
        super().__init__()
        self.table = table

    def forward(self, input_ids, attention_mask):
        if isinstance(input_ids, list):
            return [self.table((ids + 1) % 60) for ids in input_ids]
        return self.table((input_ids + 1) % 60)


def trained_stack(dropout=0.0):
    llm = family_model("llama")
    adapted = add_lora(llm, LoraSettings(rank=2, dropout=dropout), seed=0)
    stack = StackedModel(Shifted(llm.get_input_embeddings()), nn.Linear(32, 32), adapted)
    for name, parameter in stack.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(1))
    return stack


def alignment(stack, pooling="mean", **weights):
    stack.pooling = pooling
    return PooledAlignment(stack, FrozenSelf(stack), len(LANGUAGES), **weights)


def test_the_teacher_itself_has_loss_exactly_zero():
    objective = alignment(own_embeddings_stack(family_model("llama"))).train()
    output = objective(batch())
    assert output.loss_sum.item() == 0.0
    assert objective.summarize(output.sums, LANGUAGES)["fvu"] == 0.0


@pytest.mark.parametrize("pooling", POOLED)
def test_loss_and_gradient_equal_float64(pooling):
    objective = alignment(trained_stack(), pooling).eval()
    data = batch()
    objective(data).loss_sum.backward()
    gradients = {n: p.grad.double() for n, p in objective.named_parameters() if p.requires_grad}
    objective.zero_grad()
    double = objective.double()
    stack = double.student

    def pooled(states, mask):
        return torch.stack(
            [POOLED[pooling](row[: int(length)]) for row, length in zip(states, mask.sum(1), strict=True)]
        )

    student = pooled(stack.states(data.encoder_ids, data.encoder_mask), data.encoder_mask)
    teacher = pooled(double.teacher.read(data.llm_ids, data.llm_mask), data.llm_mask)
    truth = nn.functional.mse_loss(student, teacher) * len(data)
    truth.backward()
    single = alignment(trained_stack(), pooling).eval()(data).loss_sum
    torch.testing.assert_close(single.double(), truth, rtol=1e-5, atol=0)
    for name, parameter in double.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=2e-3, atol=1e-6)


PAIRS = torch.tensor(
    [[[1, 1], [4, 2], [6, 7]], [[2, 3], [-1, -1], [-1, -1]], [[-1, -1]] * 3, [[0, 5], [7, 0], [-1, -1]]]
)


def test_token_loss_and_gradient_equal_float64():
    def objective(dtype):
        stack = trained_stack().to(dtype)
        return alignment(stack, sequence_weight=0.333, token_weight=0.667).eval()

    data = batch()
    data.extras["token_pairs"] = PAIRS
    single, double = objective(torch.float32), objective(torch.float64)
    output = single(data)
    output.loss_sum.backward()
    student = double.student.states(data.encoder_ids, data.encoder_mask)
    teacher = double.teacher.read(data.llm_ids, data.llm_mask)
    truth, token_losses = 0.0, []
    for row in range(4):
        length = int(data.llm_mask[row].sum())
        truth = truth + 0.333 * nn.functional.mse_loss(student[row, :length].mean(0), teacher[row, :length].mean(0))
        pairs = [pair for pair in PAIRS[row].tolist() if pair[0] >= 0]
        if pairs:
            errors = [nn.functional.mse_loss(student[row, i], teacher[row, j]) for i, j in pairs]
            token_losses.append(sum(errors) / len(errors))
            truth = truth + 0.667 * token_losses[-1]
    truth.backward()
    torch.testing.assert_close(output.loss_sum.double(), truth, rtol=1e-5, atol=0)
    gradients = {n: p.grad for n, p in double.named_parameters() if p.requires_grad}
    for name, parameter in single.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad.double(), gradients[name], rtol=2e-3, atol=1e-6)
    figures = single.summarize(output.sums, LANGUAGES)
    assert figures["token_loss"] == pytest.approx(sum(token_losses).item() / 3, rel=1e-5)
    assert figures["loss"] == pytest.approx(truth.item() / 4, rel=1e-5)
    plain = alignment(trained_stack()).eval()
    assert figures["fvu"] == pytest.approx(plain.summarize(plain(data).sums, LANGUAGES)["fvu"], rel=1e-5)


@pytest.mark.parametrize("pooling", POOLED)
def test_token_loss_of_packed_rows_is_that_of_padded_ones(pooling):
    data = batch()
    data.extras["token_pairs"] = PAIRS
    objective = alignment(trained_stack(), pooling, sequence_weight=0.5, token_weight=2.0).eval()
    rows = [ids[mask.bool()].numpy() for ids, mask in zip(data.llm_ids, data.llm_mask, strict=True)]
    packed = replace(data, packed=pack_batch(rows, rows, [0, 0, 1, 1], {"encoder": 0, "llm": 0}, 2))
    one, other = objective(data), objective(packed)
    torch.testing.assert_close(other.loss_sum, one.loss_sum, rtol=1e-5, atol=0)
    torch.testing.assert_close(other.sums["token_loss"], one.sums["token_loss"], rtol=1e-5, atol=0)
    plain = alignment(trained_stack(), pooling).eval()  # it pools where no states of tokens are kept
    for given in (data, packed):
        torch.testing.assert_close(plain(given).sums["squared_error"], one.sums["squared_error"], rtol=1e-5, atol=0)


def test_a_forward_without_samples():
    objective = alignment(trained_stack(), token_weight=1.0).eval()
    empty = objective(batch(valid=torch.zeros(4, dtype=torch.bool)))
    assert empty.loss_sum.item() == 0.0
    empty.loss_sum.backward()


def test_rows_without_weight_change_nothing():
    objective = alignment(trained_stack()).eval()
    whole = batch()
    part = batch(valid=torch.tensor([True, True, False, False]))
    short = Batch(**{n: v[:2] for n, v in vars(whole).items() if isinstance(v, torch.Tensor)})
    a, b = objective(part), objective(short)
    torch.testing.assert_close(a.loss_sum, b.loss_sum)
    assert objective.count(part) == objective.count(short) == 2
    for name in a.sums:
        torch.testing.assert_close(a.sums[name], b.sums[name], rtol=1e-6, atol=1e-8)


def test_fvu_is_that_of_its_definition_and_knows_its_teacher():
    objective = alignment(trained_stack()).eval()
    sums, students, teachers = objective.empty_sums(), [], []
    for seed in range(3):
        data = batch(seed=seed)
        sums = add_sums(sums, objective(data).sums)
        with torch.no_grad():
            students.append(pool(objective.student.states(data.encoder_ids, data.encoder_mask), data.encoder_mask))
            teachers.append(pool(objective.teacher.read(data.llm_ids, data.llm_mask), data.llm_mask))
    student, teacher = torch.cat(students).double(), torch.cat(teachers).double()
    residual = (student - teacher).square().sum()
    figures = objective.summarize(sums, LANGUAGES)
    torch.testing.assert_close(
        figures["fvu"], (residual / (teacher - teacher.mean(0)).square().sum()).item(), rtol=1e-5, atol=0
    )
    swapped = (residual / (student - student.mean(0)).square().sum()).item()
    assert abs(figures["fvu"] - swapped) > 1e-3
    torch.testing.assert_close(figures["loss"], (student - teacher).square().mean().item(), rtol=1e-5, atol=0)
    by_language = [figures[f"loss/{language}"] for language in LANGUAGES]
    torch.testing.assert_close(sum(by_language) / 2, figures["loss"], rtol=1e-5, atol=0)


def test_the_teacher_stays_bitwise_the_same_over_training():
    objective = alignment(trained_stack(dropout=0.1)).train()
    data = batch()
    before = objective.teacher.read(data.llm_ids, data.llm_mask)
    frozen = {n: p.clone() for n, p in objective.named_parameters() if not p.requires_grad}
    optimizer = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = objective(data).loss_sum
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert torch.equal(objective.teacher.read(data.llm_ids, data.llm_mask), before)
    assert all(torch.equal(p, frozen[n]) for n, p in objective.named_parameters() if n in frozen)


def pool(states, mask):
    return torch.stack([row[: int(length)].mean(0) for row, length in zip(states, mask.sum(1), strict=True)])
