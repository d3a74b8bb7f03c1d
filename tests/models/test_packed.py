"""Packing is layout only: packed and padded batches give the same vectors and gradients, for every family."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface, Llama4TextConfig, ModernBertConfig

from mtllm_ds.config.sections import LoraSettings
from mtllm_ds.data.stream.collate import Batch
from mtllm_ds.data.stream.packing import pack_batch, pad_rows
from mtllm_ds.errors import UserError
from mtllm_ds.models.encoders import StackEncoder
from mtllm_ds.models.lora import add_lora
from mtllm_ds.models.packed import require_packing
from mtllm_ds.models.readers import base_of
from mtllm_ds.models.stacked import StackedModel
from mtllm_ds.teachers.frozen_self import FrozenSelf
from tests.models.test_stacked import FAMILIES, family_model


class Table(nn.Module):
    """A frozen 'encoder' whose states depend on the mask's neighbours as little as an embedding's."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(4)
        self.weight = nn.Parameter(torch.randn(60, 12, generator=generator), requires_grad=False)

    def forward(self, input_ids, attention_mask):
        return type("Output", (), {"last_hidden_state": self.weight[input_ids]})


def stack(family, bidirectional=True):
    torch.manual_seed(1)
    connector = nn.Linear(12, 32)
    adapted = add_lora(family_model(family, bidirectional), LoraSettings(rank=2, dropout=0.0), seed=0)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(2))
    return StackedModel(StackEncoder(Table(), 12), connector, adapted).eval()


def batches():
    """The same seven samples in three cells, padded and packed."""
    generator = np.random.default_rng(0)
    # At most four tokens: within the sliding window of the small Mistral and Gemma 3.
    rows = [generator.integers(3, 60, length).astype(np.uint16) for length in (4, 1, 3, 2, 4, 3, 2)]
    encoder_ids, encoder_mask = pad_rows(rows, 1)
    llm_ids, llm_mask = pad_rows([row[::-1].copy() for row in rows], 0)
    common = {
        "encoder_ids": encoder_ids, "encoder_mask": encoder_mask, "llm_ids": llm_ids, "llm_mask": llm_mask,
        "languages": torch.zeros(7, dtype=torch.int64), "valid": torch.ones(7, dtype=torch.bool), "sample_ids": torch.arange(7),
        "cells": torch.tensor([0, 0, 0, 1, 1, 2, 2]),
    }  # fmt: skip
    cells = [0, 0, 0, 1, 1, 2, 2]
    packed = pack_batch(rows, [row[::-1].copy() for row in rows], cells, {"encoder": 1, "llm": 0}, num_buckets=2)
    return Batch(**common), Batch(**common, packed=packed)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("bidirectional", [True, False])
def test_packed_equals_padded(family, bidirectional):
    if family == "bert" and not bidirectional:
        pytest.skip("an encoder has one direction only")
    model = stack(family, bidirectional)
    padded, packed = batches()
    torch.testing.assert_close(
        FrozenSelf(model).vectors(packed), FrozenSelf(model).vectors(padded), atol=1e-5, rtol=1e-5
    )
    gradients = []
    for batch in (padded, packed):
        model.zero_grad()
        vectors = model.vectors(batch)
        vectors.square().sum().backward()
        gradients.append([vectors.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(b, a, atol=1e-5 * float(a.abs().max()), rtol=1e-4)


def test_a_short_sliding_window_refuses_to_pack():
    with pytest.raises(UserError, match=r"sliding window \(4\)"):
        require_packing(FAMILIES["mistral"], True, max_length=5)
    require_packing(FAMILIES["mistral"], True, max_length=4)
    require_packing(FAMILIES["llama"], True, max_length=512)
    with pytest.raises(
        UserError, match=r"packing would change the states of this llama model; set data\.samples_per_cell"
    ):
        require_packing(FAMILIES["llama"], False, max_length=5)


def test_other_windows_refuse_to_pack_too():
    with pytest.raises(UserError, match=r"attention chunk size \(8\) of this llama4_text model"):
        require_packing(Llama4TextConfig(attention_chunk_size=8), True, max_length=9)
    with pytest.raises(UserError, match=r"sliding window \(\d+\) of this modernbert model"):
        require_packing(ModernBertConfig(local_attention=16), True, max_length=17)


def segment_by_segment(module, query, key, value, attention_mask, scaling=None, is_causal=None, **told):
    """In place of flash attention's kernel of variable lengths, which no CPU runs: attention within the borders that it is told."""
    borders = told["cu_seq_lens_q"]
    assert attention_mask is None
    assert query.shape[0] == 1
    assert borders.dtype == torch.int32
    assert borders.equal(told["cu_seq_lens_k"])
    assert [int(borders[0]), int(borders[-1])] == [0, query.shape[2]]
    assert told["max_length_q"] == told["max_length_k"] == int(torch.diff(borders).max())
    seen.append(torch.diff(borders).tolist())
    groups, causal = query.shape[1] // key.shape[1], module.is_causal if is_causal is None else is_causal
    parts = [
        nn.functional.scaled_dot_product_attention(
            query[:, :, start:end],
            key[:, :, start:end].repeat_interleave(groups, 1),
            value[:, :, start:end].repeat_interleave(groups, 1),
            is_causal=causal,
            scale=scaling,
        )
        for start, end in pairwise(borders.tolist())
    ]
    return torch.cat(parts, 2).transpose(1, 2), None


seen: list[list[int]] = []


@pytest.mark.parametrize("bidirectional", [True, False])
def test_flash_attention_is_told_the_borders_of_the_samples(bidirectional):
    """transformers hands every layer what `run_packed` says; without padding and without a mask the states are the same."""
    AttentionInterface.register("flash_by_hand", segment_by_segment)
    AttentionMaskInterface.register("flash_by_hand", lambda *_, **__: None)
    model = stack("llama", bidirectional)
    _, packed = batches()
    masked = model.packed_states(packed.packed)
    base_of(model.llm).config._attn_implementation = "flash_by_hand"
    seen.clear()
    told = model.packed_states(packed.packed)
    layout = packed.packed.encoder
    assert seen == [[4, 1, 3, 2, 4, 3, 2]] * base_of(model.llm).config.num_hidden_layers
    torch.testing.assert_close(layout.of_tokens(told), layout.of_tokens(masked), atol=1e-5, rtol=1e-5)
    assert not told[layout.segment_ids < 0].any()
