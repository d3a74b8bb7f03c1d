"""Task objectives against float64 truths: cross-entropy, choices, squared errors, divergences, figures; unit truth 7."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score
from torch import nn

from mtllm_ds.data.shards.manifest import TaskEntry
from mtllm_ds.errors import UserError
from mtllm_ds.models.heads import TaskHead, head_from, new_head
from mtllm_ds.objectives.base import add_sums
from mtllm_ds.objectives.task_distillation import TaskDistillation
from mtllm_ds.objectives.task_tuning import TaskTuning
from mtllm_ds.teachers.cached import CachedTeacher
from tests.models.test_readers import SPANS, batches, reader_of

TOPICS = TaskEntry("topics", "classification", ("a", "b", "c"))
CHOICE = TaskEntry("choice", "multiple_choice", ("1", "2"))
LANGUAGES = ("eng_Latn",)
LABELS = torch.tensor([0, 0, 1, 1, 0])


def head_of(width, num_labels):
    torch.manual_seed(3)
    return TaskHead(width, num_labels)


def batch_of(task, labels=LABELS, packed=False):
    batch = batches()[int(packed)]
    extras = {"label": labels}
    if task is CHOICE:
        extras |= {"encoder_choice_spans": SPANS, "llm_choice_spans": SPANS}
    return replace(batch, extras=extras)


def tuning(kind="llm", task=TOPICS):
    reader = reader_of(kind)
    return TaskTuning(reader, head_of(reader.hidden_size, 3 if task is TOPICS else 1), task, 1)


def distillation(match="vectors", task=TOPICS):
    reader = reader_of("stacked")
    reader.connector.requires_grad_(False)
    return TaskDistillation(
        reader, CachedTeacher(32, of_choices=task is CHOICE), head_of(32, 3 if task is TOPICS else 1), task, 1, match
    )


def with_teacher(batch, task=TOPICS, seed=7):
    shape = (5, 32) if task is TOPICS else (5, 2, 32)
    vectors = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    if task is CHOICE:
        vectors[1, 1] = vectors[4, 1] = 0.0
    return replace(batch, extras=batch.extras | {"teacher_pooled": vectors})


@pytest.mark.parametrize("kind", ["stacked", "llm", "encoder"])
@pytest.mark.parametrize("packed", [False, True])
def test_classification_is_cross_entropy_of_the_heads_answers(kind, packed):
    objective, batch = tuning(kind), batch_of(TOPICS, packed=packed)
    output = objective(batch)
    vectors = objective.student.vectors(batch).double()
    logits = vectors @ objective.head.weight.double().T + objective.head.bias.double()
    truth = -logits.log_softmax(-1)[torch.arange(5), LABELS].sum()
    torch.testing.assert_close(output.loss_sum.double(), truth, rtol=1e-5, atol=1e-6)
    assert objective.count(batch) == 5
    output.loss_sum.backward()
    assert objective.head.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("kind", ["stacked", "llm", "encoder"])
def test_a_choice_is_scored_by_its_span_and_absent_ones_have_no_chance(kind):
    objective, batch = tuning(kind, CHOICE), batch_of(CHOICE)
    states = objective.student.states(*objective.student.ids_and_mask(batch)).double()
    weight, bias = objective.head.weight.double()[0], objective.head.bias.double()[0]
    truth = 0.0
    for row in range(5):
        scores = torch.stack([states[row, s:e].mean(0) @ weight + bias for s, e in SPANS[row].tolist() if e > s])
        truth = truth - scores.log_softmax(-1)[LABELS[row]]
    output = objective(batch)
    torch.testing.assert_close(output.loss_sum.double(), truth, rtol=1e-5, atol=1e-6)
    output.loss_sum.backward()
    assert all(torch.isfinite(p.grad).all() for p in objective.parameters() if p.grad is not None)


@pytest.mark.parametrize("task", [TOPICS, CHOICE])
@pytest.mark.parametrize("make", [tuning, distillation])
def test_rows_without_weight_and_empty_forwards_change_nothing(make, task):
    objective = make(task=task)
    whole = with_teacher(batch_of(task), task)
    part = replace(whole, valid=torch.tensor([True, True, True, False, False]), host=None)
    rows = {
        n: v[:3] if isinstance(v, torch.Tensor) else {k: x[:3] for k, x in v.items()} if n == "extras" else v
        for n, v in vars(whole).items()
    }
    a, b = objective(part), objective(type(whole)(**rows))
    torch.testing.assert_close(a.loss_sum, b.loss_sum, rtol=1e-5, atol=1e-6)
    for name in a.sums:
        torch.testing.assert_close(a.sums[name], b.sums[name], rtol=1e-5, atol=1e-6)
    # A rank without a sample makes the same calls on one padding row, without any further column.
    empty = replace(whole, valid=torch.zeros(5, dtype=torch.bool), extras={}, host=None)
    output = objective(empty)
    output.loss_sum.backward()
    assert output.loss_sum.item() == 0.0
    assert add_sums(a.sums, output.sums).keys() == a.sums.keys()


def test_figures_are_those_of_scikit_learn():
    objective = tuning()
    sums, labels, answers = objective.empty_sums(), [], []
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        here = torch.randint(0, 2, (5,), generator=generator)  # class c never occurs
        batch = batch_of(TOPICS, here)
        sums = add_sums(sums, objective(batch).sums)
        labels.append(here.numpy())
        answers.append(objective.scores(objective.student.vectors(batch), None).argmax(-1).numpy())
        objective.head.bias.data += torch.randn(3, generator=generator)
    truth, given = np.concatenate(labels), np.concatenate(answers)
    figures = objective.summarize(sums, LANGUAGES)
    assert figures["accuracy"] == pytest.approx(accuracy_score(truth, given))
    assert figures["macro_f1"] == pytest.approx(f1_score(truth, given, labels=np.unique(truth), average="macro"))


@pytest.mark.parametrize("task", [TOPICS, CHOICE])
def test_vectors_are_matched_in_mean_square(task):
    objective, batch = distillation(task=task), with_teacher(batch_of(task), task)
    teacher = batch.extras["teacher_pooled"].double()
    if task is TOPICS:
        student = objective.student.vectors(batch).double()
        rows = [(student[r : r + 1], teacher[r : r + 1]) for r in range(5)]
    else:
        student = objective.student.choice_vectors(batch, SPANS).double()
        there = [[c for c in range(2) if SPANS[r, c, 1] > SPANS[r, c, 0]] for r in range(5)]
        rows = [(student[r, there[r]], teacher[r, there[r]]) for r in range(5)]
    truth = sum((s - t).square().mean() for s, t in rows)
    output = objective(batch)
    torch.testing.assert_close(output.loss_sum.double(), truth, rtol=1e-5, atol=0)
    everything = torch.cat([s for s, _ in rows]), torch.cat([t for _, t in rows])
    residual = (everything[0] - everything[1]).square().sum()
    spread = (everything[1] - everything[1].mean(0)).square().sum()
    figures = objective.summarize(output.sums, LANGUAGES)
    assert figures["fvu"] == pytest.approx((residual / spread).item(), rel=1e-5)


@pytest.mark.parametrize("task", [TOPICS, CHOICE])
def test_logits_are_matched_by_divergence_from_the_teacher(task):
    objective, batch = distillation("logits", task), with_teacher(batch_of(task), task)
    teacher = batch.extras["teacher_pooled"]
    truth = 0.0
    vectors = objective.student.vectors(batch) if task is TOPICS else objective.student.choice_vectors(batch, SPANS)
    for row in range(5):
        here = slice(None) if task is TOPICS else [c for c in range(2) if SPANS[row, c, 1] > SPANS[row, c, 0]]
        scores = [
            functional_scores(objective.head, v[row] if task is TOPICS else v[row, here]) for v in (teacher, vectors)
        ]
        p, q = (torch.distributions.Categorical(logits=s) for s in scores)
        truth = truth + torch.distributions.kl_divergence(p, q)
    output = objective(batch)
    torch.testing.assert_close(output.loss_sum.double(), truth, rtol=1e-4, atol=1e-6)
    output.loss_sum.backward()
    assert all(torch.isfinite(p.grad).all() for p in objective.parameters() if p.grad is not None)


def functional_scores(head, vectors):
    scores = vectors.double() @ head.weight.double().T + head.bias.double()
    return scores.squeeze(-1) if head.out_features == 1 else scores


@pytest.mark.parametrize("match", ["vectors", "logits"])
def test_labels_change_nothing_and_head_and_connector_stay_bitwise(match):
    objective = distillation(match).train()
    batch = with_teacher(batch_of(TOPICS))
    permuted = replace(batch, extras=batch.extras | {"label": (LABELS + 1) % 3})
    unlabelled = replace(batch, extras={"teacher_pooled": batch.extras["teacher_pooled"]})
    assert torch.equal(objective(batch).loss_sum, objective(permuted).loss_sum)
    assert torch.equal(objective(batch).loss_sum, objective(unlabelled).loss_sum)
    assert "accuracy" not in objective.summarize(objective(unlabelled).sums, LANGUAGES)
    fixed = {n: p.clone() for n, p in objective.named_parameters() if n.startswith(("head", "student.connector"))}
    optimizer = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(6):
        optimizer.zero_grad()
        loss = objective(batch).loss_sum
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(torch.equal(p, fixed[n]) for n, p in objective.named_parameters() if n in fixed)
    assert len(fixed) == 4


def test_a_head_for_other_vectors_is_refused():
    with pytest.raises(UserError, match="reads vectors of 16 dimensions, this model gives 32"):
        head_from(head_of(16, 3).state_dict(), 32, "objective.teacher=t")


def test_a_perfect_student_has_no_loss():
    objective, batch = distillation(), batch_of(TOPICS)
    with torch.no_grad():
        own = objective.student.vectors(batch)
    batch = replace(batch, extras=batch.extras | {"teacher_pooled": own})
    assert objective(batch).loss_sum.item() == 0.0
    divergence = TaskDistillation(objective.student, objective.teacher, objective.head, TOPICS, 1, "logits")
    assert abs(divergence(batch).loss_sum.item()) < 1e-6
    assert isinstance(objective.head, nn.Linear)


def test_a_head_can_do_without_a_bias_as_the_authors_has():
    head = new_head(32, TOPICS, seed=1, dtype=torch.float32, bias=False)
    assert list(head.state_dict()) == ["weight"]
    vectors = torch.randn(4, 32)
    torch.testing.assert_close(head(vectors), vectors @ head.weight.T)
    taken_over = head_from(head.state_dict(), 32, "here")
    torch.testing.assert_close(taken_over(vectors), head(vectors))
