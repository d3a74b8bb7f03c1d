"""Pooling against a plain float64 loop: padded on either side, packed, spans; no token is zeros and no NaN."""

from typing import get_args

import numpy as np
import pytest
import torch

from mtllm_ds.config.sections import Pooling
from mtllm_ds.data.stream.packing import pack_rows
from mtllm_ds.models.pooling import pool, pool_packed, pool_spans

LENGTHS = (7, 1, 0, 5, 2)
WIDTH = 9
EACH = pytest.mark.parametrize("pooling", get_args(Pooling))
SPANS = torch.tensor([[[1, 3], [4, 7]], [[0, 1], [0, 0]], [[2, 5], [0, 2]], [[0, 2], [1, 2]], [[5, 6], [0, 0]]])


def truth(tokens, pooling):
    """Of the tokens of one text, (n, D) float64."""
    if not len(tokens):
        return tokens.sum(0)
    if pooling == "last":
        return tokens[len(tokens) - 1]
    weights = [1 if pooling == "mean" else i + 1 for i in range(len(tokens))]
    return sum(weight * token for weight, token in zip(weights, tokens, strict=True)) / sum(weights)


def texts(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(length, 4, generator=generator, dtype=dtype) for length in LENGTHS]


def agrees(pooled, states, pooling):
    """Vectors, and their gradient by the states of each text."""
    found = pooled(states)
    assert found.dtype == torch.float32
    place = torch.randn(found.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = torch.stack([truth(own, pooling) for own in states])
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6)
    gradients = [torch.autograd.grad((one.double() * place).sum(), states) for one in (found, expected)]
    for gradient, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-6)


def leaves():
    return [own.requires_grad_() for own in texts()]


@EACH
@pytest.mark.parametrize("before", [0, 2, None], ids=["right", "both", "left"])
def test_padded_rows(pooling, before):
    starts = [WIDTH - length if before is None else before for length in LENGTHS]
    mask = torch.zeros(len(LENGTHS), WIDTH, dtype=torch.int64)
    for row, (start, length) in enumerate(zip(starts, LENGTHS, strict=True)):
        mask[row, start : start + length] = 1

    def pooled(states):
        fill = torch.full((WIDTH, 4), 100.0)  # what a model says at padding counts for nothing
        rows = [
            torch.cat([fill[:start], own.float(), fill[start + len(own) :]])
            for start, own in zip(starts, states, strict=True)
        ]
        return pool(torch.stack(rows), mask, pooling)

    agrees(pooled, leaves(), pooling)


@EACH
def test_packed_rows(pooling):
    lengths = np.array(LENGTHS)
    layout = pack_rows(lengths, np.cumsum(lengths) - lengths, [0, 0, 1, 1, 1])

    def pooled(states):
        packed = layout.gather(torch.cat(states).float())
        return pool_packed(packed.masked_fill((layout.segment_ids < 0)[..., None], float("nan")), layout, pooling)

    agrees(pooled, leaves(), pooling)


@EACH
def test_spans_are_texts_of_their_own(pooling):
    states = torch.randn(5, 7, 4, generator=torch.Generator().manual_seed(0))
    found = pool_spans(states, SPANS, pooling)
    for row in range(5):
        for choice, (start, end) in enumerate(SPANS[row].tolist()):
            expected = truth(states[row, start:end].double(), pooling)
            torch.testing.assert_close(found[row, choice].double(), expected, atol=1e-6, rtol=1e-6)


@EACH
def test_states_in_bf16_are_summed_in_float32(pooling):
    (states,) = torch.randn(1, 500, 3, generator=torch.Generator().manual_seed(0)).bfloat16()
    found = pool(states[None], torch.ones(1, 500, dtype=torch.int64), pooling)[0]
    torch.testing.assert_close(found.double(), truth(states.double(), pooling), rtol=1e-5, atol=1e-6)
