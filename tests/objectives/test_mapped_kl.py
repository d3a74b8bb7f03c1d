"""Divergence between vocabularies against probabilities written out in float64."""

import pytest
import torch
from torch.nn import functional

from mtllm_ds.objectives.mapped_kl import Mapped, Options, bucket_kl, mapped_kl

OWN, THEIRS = torch.tensor([0, 2, 5, 6]), torch.tensor([3, 1, 8, 0])


def problem(vocabulary=9, teacher_vocabulary=11, rows=7, seed=0):
    draw = torch.Generator().manual_seed(seed)
    normal = lambda *shape: torch.randn(*shape, generator=draw, dtype=torch.float64)  # noqa: E731
    leaves = [tensor.requires_grad_() for tensor in (normal(rows, 5), normal(vocabulary, 5), normal(vocabulary))]
    return leaves, normal(rows, teacher_vocabulary) * 2, torch.randint(vocabulary, (rows,), generator=draw)


def written_out(logits, taught, mapped, temperature):
    """Each row's sum over the common tokens, and the rest."""
    total = torch.zeros((), dtype=torch.float64)
    for z, t in zip(logits / temperature, taught / temperature, strict=True):
        q, p = z.exp() / z.exp().sum(), t.exp() / t.exp().sum()
        own, other = q[mapped.own], p[mapped.theirs]
        if mapped.has_rest:
            own, other = torch.cat([own, (1 - own.sum())[None]]), torch.cat([other, (1 - other.sum())[None]])
        else:
            own, other = own / own.sum(), other / other.sum()
        total = total + (other * (other / own).log()).sum()
    return total


@pytest.mark.parametrize("chunk_elements", [9, 30, 10**6])
@pytest.mark.parametrize("label_weight", [0.0, 0.3])
@pytest.mark.parametrize("softcap", [None, 4.0])
def test_loss_and_gradients_are_those_of_the_written_form(chunk_elements, label_weight, softcap):
    (states, weight, bias), taught, wanted = problem()
    mapped, options = Mapped(OWN, THEIRS, True), Options(2.0, label_weight, softcap, chunk_elements)
    loss = mapped_kl(states, weight, bias, lambda rows: taught[rows], wanted, mapped, options)
    found = torch.autograd.grad(3 * loss, (states, weight, bias))
    logits = functional.linear(states, weight, bias)
    logits = logits if softcap is None else softcap * (logits / softcap).tanh()
    truth = (1 - label_weight) * 4 * written_out(logits, taught, mapped, 2.0)
    truth = truth + label_weight * functional.cross_entropy(logits, wanted, reduction="sum")
    assert loss.item() == pytest.approx(truth.item(), rel=1e-12)
    for one, other in zip(found, torch.autograd.grad(3 * truth, (states, weight, bias)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_a_student_with_all_its_tokens_in_common_has_no_rest():
    (states, weight, bias), taught, wanted = problem(vocabulary=4)
    mapped = Mapped(torch.tensor([0, 1, 2, 3]), THEIRS, False)
    loss = mapped_kl(states, weight, bias, lambda rows: taught[rows], wanted, mapped, Options(1.0, 0.0, None, 99))
    truth = written_out(functional.linear(states, weight, bias), taught, mapped, 1.0)
    assert loss.item() == pytest.approx(truth.item(), rel=1e-12)


def test_equal_vocabularies_are_the_plain_divergence():
    (states, weight, bias), _, _ = problem()
    _, taught, _ = problem(teacher_vocabulary=9, seed=1)
    logits = functional.linear(states, weight, bias)
    every = torch.arange(9)
    plain = functional.kl_div(logits.log_softmax(-1), taught.log_softmax(-1), log_target=True, reduction="none").sum(-1)
    torch.testing.assert_close(bucket_kl(logits, taught, Mapped(every, every, False), 1.0), plain)


def test_what_only_the_student_has_gets_the_rest_of_the_teacher():
    """A teacher without mass elsewhere takes the student's from there, and no gradient is lost to 0 * infinity."""
    (states, weight, bias), taught, wanted = problem(teacher_vocabulary=4)
    mapped = Mapped(OWN, torch.arange(4), True)
    loss = mapped_kl(states, weight, bias, lambda rows: taught[rows], wanted, mapped, Options(1.0, 0.0, None, 99))
    (slope,) = torch.autograd.grad(loss, bias)
    assert slope.isfinite().all()
    elsewhere = [token for token in range(9) if token not in OWN.tolist()]
    assert (slope[elsewhere] > 0).all()
