"""Readers: packed against padded, however states are pooled, LoRA on the MT encoder alone, a frozen first adapter."""

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from torch import nn
from transformers import M2M100Config
from transformers.models.m2m_100.modeling_m2m_100 import M2M100Encoder

from mtllm_ds.checkpoint.adapters import one_adapter, with_frozen_adapter
from mtllm_ds.config.sections import LoraSettings, Pooling
from mtllm_ds.data.stream.collate import Batch
from mtllm_ds.data.stream.packing import pack_batch, pad_rows
from mtllm_ds.errors import UserError
from mtllm_ds.models.base_dropout import switch_off_dropout
from mtllm_ds.models.centring import LanguageCentring
from mtllm_ds.models.encoders import StackEncoder
from mtllm_ds.models.lora import add_lora
from mtllm_ds.models.own_weights import put_weights
from mtllm_ds.models.readers import EncoderReader, LLMReader
from mtllm_ds.models.stacked import StackedModel
from mtllm_ds.weight_names import is_addition
from tests.models.test_packed import Table
from tests.models.test_stacked import family_model

LENGTHS = (7, 3, 5, 2, 6)
SPANS = torch.tensor([[[1, 3], [4, 7]], [[0, 1], [0, 0]], [[2, 5], [0, 2]], [[0, 2], [1, 2]], [[5, 6], [0, 0]]])


def mt_encoder(dropout=0.0):
    torch.manual_seed(0)
    config = M2M100Config(
        vocab_size=60, d_model=12, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=16, dropout=dropout,
        encoder_layerdrop=0.0,
    )  # fmt: skip
    return M2M100Encoder(config).requires_grad_(False)


def randomize(reader, seed=2):
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in reader.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.2, generator=generator)
    return reader.eval()


def reader_of(kind, rank=2):
    lora = LoraSettings(rank=rank, dropout=0.0)
    if kind == "encoder":
        encoder = mt_encoder(dropout=0.3)
        switch_off_dropout(encoder)
        return randomize(EncoderReader(add_lora(encoder, lora, seed=0)))
    if kind == "llm":
        return randomize(LLMReader(add_lora(family_model("llama"), lora, seed=0)))
    torch.manual_seed(1)
    return randomize(
        StackedModel(StackEncoder(Table(), 12), nn.Linear(12, 32), add_lora(family_model("llama"), lora, seed=0))
    )


def batches():
    """The same five samples in two cells, padded and packed."""
    generator = np.random.default_rng(0)
    rows = [generator.integers(3, 60, length).astype(np.uint16) for length in LENGTHS]
    ids, mask = pad_rows(rows, 1)
    common = {
        "encoder_ids": ids, "encoder_mask": mask, "llm_ids": ids, "llm_mask": mask,
        "languages": torch.zeros(5, dtype=torch.int64), "valid": torch.ones(5, dtype=torch.bool), "sample_ids": torch.arange(5),
        "cells": torch.tensor([0, 0, 0, 1, 1]),
    }  # fmt: skip
    packed = pack_batch(rows, rows, [0, 0, 0, 1, 1], {"encoder": 1, "llm": 1}, num_buckets=2)
    return Batch(**common), Batch(**common, packed=packed)


@pytest.mark.parametrize("pooling", get_args(Pooling))
@pytest.mark.parametrize("kind", ["stacked", "llm", "encoder"])
def test_packed_equals_padded(kind, pooling):
    reader = reader_of(kind)
    reader.pooling = pooling
    padded, packed = batches()
    torch.testing.assert_close(reader.vectors(packed), reader.vectors(padded), atol=2e-5, rtol=1e-4)
    choices = reader.choice_vectors(padded, SPANS)
    torch.testing.assert_close(reader.choice_vectors(packed, SPANS), choices, atol=2e-5, rtol=1e-4)
    alone = replace(
        padded, **{n: getattr(padded, n)[3:4, :2] for n in ("encoder_ids", "encoder_mask", "llm_ids", "llm_mask")}
    )
    torch.testing.assert_close(reader.choice_vectors(alone, SPANS[3:4])[0], choices[3], atol=2e-5, rtol=1e-4)


def test_the_encoder_alone_trains_by_lora_without_its_own_dropout():
    reader = reader_of("encoder").train()
    padded, _ = batches()
    assert torch.equal(reader.vectors(padded), reader.vectors(padded))
    reader.vectors(padded).square().sum().backward()
    trained = {name for name, parameter in reader.named_parameters() if parameter.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    gradients = [p.grad for n, p in reader.named_parameters() if n in trained and "lora_A" in n]
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients)


def additions(reader):
    return {name: p for name, p in reader.named_parameters() if is_addition(name)}


def test_a_frozen_first_adapter_is_the_sum_of_both_and_one_adapter_is_the_same():
    padded, _ = batches()
    first = reader_of("llm", rank=3)
    weights = {name: tensor.detach().clone() for name, tensor in additions(first).items()}
    lora = LoraSettings(rank=3, alpha=32)

    both = LLMReader(add_lora(family_model("llama"), LoraSettings(rank=2, alpha=8, dropout=0.0), seed=4))
    put_weights(both, with_frozen_adapter(weights, lora))
    both.eval()
    # A fresh LoRA adds nothing: the model is the first one.
    torch.testing.assert_close(both.vectors(padded), first.vectors(padded), atol=2e-6, rtol=1e-5)
    frozen = {name for name, parameter in both.named_parameters() if ".start." in name and not parameter.requires_grad}
    assert len(frozen) == len(weights)

    for name, parameter in both.named_parameters():
        if "lora_B.default" in name:
            nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(9))
    joined, joined_lora = one_adapter(additions(both), LoraSettings(rank=2, alpha=8))
    assert (joined_lora.rank, joined_lora.alpha) == (5, 5)
    single = LLMReader(add_lora(family_model("llama"), joined_lora.model_copy(update={"dropout": 0.0}), seed=0)).eval()
    put_weights(single, joined)
    torch.testing.assert_close(single.vectors(padded), both.vectors(padded), atol=2e-5, rtol=1e-4)
    assert not torch.allclose(single.vectors(padded), first.vectors(padded), atol=1e-3)


def test_weights_without_a_place_are_refused():
    reader = reader_of("llm", rank=2)
    with pytest.raises(UserError, match=r"model\.lora\.target_modules"):
        put_weights(reader, additions(reader_of("llm", rank=3)))
    with pytest.raises(UserError, match="has no place"):
        put_weights(reader, {"connector.weight": torch.zeros(2, 2)})


def test_centring_replaces_the_mean_by_that_of_english():
    means = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    centring = LanguageCentring(means, torch.tensor([10, 11, 12]))
    states = torch.randn(4, 5, 4, generator=torch.Generator().manual_seed(1))
    ids = torch.tensor([[10], [12], [40], [11]]).repeat(1, 5)
    found = centring(states, ids)
    assert torch.equal(found[0], states[0])
    torch.testing.assert_close(found[1], states[1] - means[2] + means[0])
    assert torch.equal(found[2], states[2])
    torch.testing.assert_close(found[3], states[3] - means[1] + means[0])
