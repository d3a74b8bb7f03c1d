"""Divergence between vocabularies against probabilities written out in float64."""

import pytest
import torch
from torch.nn import functional

from benchmarks.kernels.live_bytes import LiveBytes
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
    mapped, options = Mapped(OWN, THEIRS, True), Options(2.0, label_weight, softcap, chunk_elements, 11)
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
    loss = mapped_kl(states, weight, bias, lambda rows: taught[rows], wanted, mapped, Options(1.0, 0.0, None, 99, 11))
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
    loss = mapped_kl(states, weight, bias, lambda rows: taught[rows], wanted, mapped, Options(1.0, 0.0, None, 99, 11))
    (slope,) = torch.autograd.grad(loss, bias)
    assert slope.isfinite().all()
    elsewhere = [token for token in range(9) if token not in OWN.tolist()]
    assert (slope[elsewhere] > 0).all()


def low_precision(vocabulary=8192, width=256, rows=24, teacher_vocabulary=11):
    draw = torch.Generator().manual_seed(2)
    states, weight = (torch.randn(n, width, generator=draw).bfloat16() / 8 for n in (rows, vocabulary))
    taught = torch.randn(rows, teacher_vocabulary, generator=draw)
    return states, weight, taught, torch.randint(vocabulary, (rows,), generator=draw)


def test_a_low_precision_head_is_never_copied_in_full():
    """Beside the gradient that is summed up, and what leaves in the head's own dtype, a few chunks are alive, and no more is made
    for each."""
    states, weight, taught, wanted = low_precision()
    chunk, matrix = 2 * len(weight), weight.numel()

    def count(weight_trains, rows):
        leaves = states[:rows].clone().requires_grad_(), weight.clone().requires_grad_(weight_trains)
        options = Options(1.0, 0.5, None, chunk, 11)
        with LiveBytes() as memory:
            mapped_kl(*leaves, None, lambda part: taught[part], wanted[:rows], Mapped(OWN, THEIRS, True), options)
        return memory

    assert count(False, 24).peak < matrix, "less than the head itself, though two chunks and a tile are alive"
    assert count(True, 24).peak < (4 + 2) * matrix + 30 * 4 * chunk
    assert count(False, 24).peak <= count(False, 12).peak + 12 * 256 * (4 + 2)


def test_a_teachers_larger_vocabulary_makes_fewer_rows_of_a_chunk():
    (states, weight, bias), taught, wanted = problem(teacher_vocabulary=11)
    seen = []

    def logits(rows):
        seen.append(rows.stop - rows.start)
        return taught[rows]

    mapped_kl(states, weight, bias, logits, wanted, Mapped(OWN, THEIRS, True), Options(1.0, 0.5, None, 33, 11))
    assert seen == [3, 3, 1]


def test_gradients_of_a_low_precision_head_are_summed_in_float32():
    states, weight, taught, wanted = low_precision(rows=12)
    leaves = [tensor.clone().requires_grad_() for tensor in (states, weight)]
    mapped, options = Mapped(OWN, THEIRS, True), Options(1.0, 0.5, None, 3000, 11)
    loss = mapped_kl(*leaves, None, lambda rows: taught[rows], wanted, mapped, options)
    truth = [tensor.double().requires_grad_() for tensor in (states, weight)]
    logits = truth[0] @ truth[1].T
    exact = 0.5 * written_out(logits, taught.double(), mapped, 1.0) + 0.5 * functional.cross_entropy(
        logits, wanted, reduction="sum"
    )
    assert loss.item() == pytest.approx(exact.item(), rel=2e-3)
    for one, other in zip(torch.autograd.grad(loss, leaves), torch.autograd.grad(exact, truth), strict=True):
        assert (one.double() - other).norm() < 6e-3 * other.norm()  # that of rounding to bfloat16
