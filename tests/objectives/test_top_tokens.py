"""Divergence from a teacher's likeliest tokens: float64 by hand, fused and through heads with a bias or a soft cap."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from mtllm_ds.data.shards.targets import top_k_log_probs
from mtllm_ds.models.lm_head import OutputHead, capped
from mtllm_ds.objectives.token_kl_head import TokenKLHead, TokenLoss
from mtllm_ds.objectives.top_tokens import top_token_rows
from mtllm_ds.teachers.base import TopTokens

ROWS, WIDTH, VOCABULARY = 7, 16, 61


def coarse(log_t, ids):
    """(N, k + 1): log-probabilities of the kept tokens and of all others as one."""
    others = log_t.scatter(-1, ids, float("-inf")).logsumexp(-1, keepdim=True)
    return torch.cat([log_t.gather(-1, ids), others], -1)


def by_hand(ours, theirs, ids, temperature):
    """float64 forward KL of the coarsened distributions."""
    p, q = (coarse((logits.double() / temperature).log_softmax(-1), ids) for logits in (theirs, ours))
    return (p.exp() * torch.where(p > -torch.inf, p - q, 0.0)).sum(-1)


def parts(bias, seed=0):
    torch.manual_seed(seed)
    head = nn.Linear(WIDTH, VOCABULARY, bias=bias).requires_grad_(False)
    return head.weight, head.bias, torch.randn(ROWS, WIDTH) * 3, torch.randn(ROWS, VOCABULARY) * 3


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("kept", [1, 5, VOCABULARY])
@pytest.mark.parametrize(("bias", "softcap"), [(False, None), (True, None), (False, 3.0), (True, 3.0)])
def test_rows_and_gradients_are_those_by_hand_in_float64(bias, softcap, kept, temperature):
    weight, own, states, theirs = parts(bias)
    top = top_k_log_probs(theirs / temperature, kept)
    options = {"temperature": temperature, "backend": "auto"}
    for chunk in (2**24, VOCABULARY * 3):
        rows, slope = top_token_rows(
            states,
            TopTokens(top.ids, top.log_probs),
            weight,
            own,
            softcap,
            gradient=True,
            chunk_elements=chunk,
            **options,
        )
        leaf = states.double().requires_grad_()
        ours = capped(functional.linear(leaf, weight.double(), None if own is None else own.double()), softcap)
        expected = by_hand(ours, theirs, top.ids, temperature)
        expected.sum().backward()
        torch.testing.assert_close(rows.double(), expected.detach(), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(slope.double(), leaf.grad, rtol=1e-4, atol=1e-5)
    silent, none = top_token_rows(
        states, TopTokens(top.ids, top.log_probs), weight, own, softcap, gradient=False, **options
    )
    torch.testing.assert_close(silent, rows)
    assert none is None


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("own", [TokenLoss(), TokenLoss(kl_weight=0.7, nll_weight=0.3, temperature=2.0)])
def test_the_head_of_a_run_adds_temperature_and_cross_entropy(own, training):
    torch.manual_seed(1)
    linear = nn.Linear(WIDTH, VOCABULARY, bias=False).requires_grad_(False)
    head = OutputHead(linear.weight, scale=0.5)
    student, theirs = torch.randn(ROWS, WIDTH, requires_grad=True), torch.randn(ROWS, VOCABULARY)
    tokens, top = torch.randint(0, VOCABULARY, (ROWS,)), top_k_log_probs(theirs / own.temperature, 5)
    found = TokenKLHead(head, own).train(training)(student, TopTokens(top.ids, top.log_probs), tokens)
    nll = functional.cross_entropy(head(student), tokens, reduction="none")
    kl = by_hand(head(student), theirs, top.ids, own.temperature).float()
    expected = own.kl_weight * own.temperature**2 * kl + own.nll_weight * nll
    torch.testing.assert_close(found.loss, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        *(torch.autograd.grad(x.sum(), student, retain_graph=True)[0] for x in (found.loss, expected)),
        rtol=1e-4,
        atol=1e-6,
    )
    assert (found.kl is None) == (own.temperature != 1.0)
    assert (found.nll is None) == (training and not own.nll_weight)
    if found.kl is not None:
        torch.testing.assert_close(found.kl, kl, rtol=1e-5, atol=1e-6)
    if found.nll is not None:
        torch.testing.assert_close(found.nll, nll, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bias", [False, True])
def test_no_row_at_all(bias):
    weight, own, states, theirs = parts(bias)
    top = top_k_log_probs(theirs, 5)
    known = TopTokens(top.ids[:0], top.log_probs[:0])
    rows, slope = top_token_rows(states[:0], known, weight, own, None, temperature=1.0, backend="auto", gradient=True)
    assert (tuple(rows.shape), tuple(slope.shape)) == ((0,), (0, WIDTH))
