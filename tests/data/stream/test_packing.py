"""Packing is layout only: a model reads the same, and computes the same."""

from itertools import combinations, islice, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM, M2M100Config, M2M100Model

from mtllm_ds.config.data import OrderSettings
from mtllm_ds.data.stream.packing import block_diagonal_mask, length_buckets, pack_batch
from mtllm_ds.data.stream.stream import TrainStream
from mtllm_ds.models.pooling import pool_packed

PAD = {"encoder": 1, "llm": 0}
BUDGETS = OrderSettings(
    lanes=4, cells_per_forward=2, encoder_tokens_per_cell=200, llm_tokens_per_cell=300, queue_size=20, encoder_buckets=3
)
lists_of_lengths = st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=12)


def rows_of(lengths, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(2, 90, length).astype(np.uint16) for length in lengths]


@given(lengths=lists_of_lengths, num_cells=st.integers(1, 3), num_buckets=st.integers(1, 4))
@settings(max_examples=60)
def test_every_token_stands_once_at_its_position(lengths, num_cells, num_buckets):
    encoder_rows, llm_rows = rows_of([e for e, _ in lengths]), rows_of([n for _, n in lengths], 1)
    cells = sorted(i % num_cells for i in range(len(lengths)))
    packed = pack_batch(encoder_rows, llm_rows, cells, PAD, num_buckets)
    assert len(packed.encoder_buckets) == num_buckets
    flat = torch.cat([ids.flatten() for ids in packed.encoder_buckets])
    for ids, layout, rows in (
        (packed.llm_ids, packed.llm, llm_rows),
        (packed.encoder.gather(flat), packed.encoder, encoder_rows),
    ):
        assert int(layout.mask.sum()) == sum(map(len, rows))
        assert layout.max_seqlen == max(map(len, rows))
        assert layout.cu_seqlens.tolist() == [0, *np.cumsum([len(row) for row in rows]).tolist()]
        in_order = layout.segment_ids[layout.segment_ids >= 0]
        assert in_order.tolist() == [i for i, row in enumerate(rows) for _ in row]
        for i, row in enumerate(rows):
            own = layout.segment_ids == i
            assert ids[own].tolist() == row.tolist()
            assert layout.position_ids[own].tolist() == list(range(len(row)))
            assert set(torch.nonzero(own)[:, 0].tolist()) == {list(dict.fromkeys(cells)).index(cells[i])}
    for ids, mask in zip(packed.encoder_buckets, packed.encoder_bucket_masks, strict=True):
        assert (ids[mask == 0] == PAD["encoder"]).all()
        assert (mask.sum(1) >= 1).all()


@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=8), num_buckets=st.integers(1, 3))
@settings(max_examples=60)
def test_buckets_pad_least(lengths, num_buckets):
    buckets = length_buckets(np.array(lengths), num_buckets)
    assert sorted(i for members in buckets for i in members.tolist()) == list(range(len(lengths)))
    padded = sum(len(members) * max(lengths[i] for i in members) for members in buckets if len(members))
    ascending = sorted(lengths)
    for cuts in combinations(range(1, len(lengths)), min(num_buckets, len(lengths)) - 1):
        bounds = [0, *cuts, len(lengths)]
        assert padded <= sum((b - a) * ascending[b - 1] for a, b in pairwise(bounds))


@pytest.fixture(scope="module")
def llama():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=600,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    return LlamaForCausalLM(config).eval()


@pytest.mark.parametrize("causal", [True, False])
@torch.no_grad()
def test_packed_loss_and_states_equal_unpacked(dataset, llama, causal):
    llama.config.is_causal = causal
    batch = next(iter(TrainStream(dataset, BUDGETS))).micro_batches[0]
    assert len(batch) > 6
    packed = batch.packed
    mask = block_diagonal_mask(packed.llm.segment_ids, causal=causal)
    output = llama(packed.llm_ids, attention_mask=mask, position_ids=packed.llm.position_ids, output_hidden_states=True)
    labels = packed.llm_ids.masked_fill((packed.llm.segment_ids < 0) | (packed.llm.position_ids == 0), -100)
    packed_loss = torch.nn.functional.cross_entropy(output.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    losses, means = [], []
    for ids, row_mask in zip(batch.llm_ids, batch.llm_mask, strict=True):
        alone = ids[row_mask.bool()][None]
        single = llama(alone, output_hidden_states=True)
        losses.append(torch.nn.functional.cross_entropy(single.logits[0, :-1], alone[0, 1:], reduction="none"))
        means.append(single.hidden_states[-1][0].mean(0))
    assert abs(packed_loss - torch.cat(losses).mean()) < 1e-5
    assert (pool_packed(output.hidden_states[-1], packed.llm, "mean") - torch.stack(means)).abs().max() < 1e-5


@torch.no_grad()
def test_states_of_buckets_packed_equal_states_of_padded_rows(dataset):
    torch.manual_seed(0)
    config = M2M100Config(
        vocab_size=600, d_model=16, encoder_layers=2, decoder_layers=1, encoder_ffn_dim=32, encoder_attention_heads=2
    )
    encoder = M2M100Model(config).eval().encoder
    batch = next(iter(TrainStream(dataset, BUDGETS))).micro_batches[0]
    padded = encoder(batch.encoder_ids, attention_mask=batch.encoder_mask).last_hidden_state
    pairs = zip(batch.packed.encoder_buckets, batch.packed.encoder_bucket_masks, strict=True)
    states = torch.cat([encoder(ids, attention_mask=mask).last_hidden_state.flatten(0, 1) for ids, mask in pairs])
    packed = batch.packed.encoder.gather(states)
    for i, mask in enumerate(batch.encoder_mask.bool()):
        assert torch.allclose(packed[batch.packed.encoder.segment_ids == i], padded[i][mask], atol=1e-5)
    means = (padded * batch.encoder_mask[..., None]).sum(1) / batch.encoder_mask.sum(1, keepdim=True)
    assert torch.allclose(pool_packed(packed, batch.packed.encoder, "mean"), means, atol=1e-5)


def test_packed_batches_of_the_stream_hold_the_same_samples(dataset):
    stream = TrainStream(dataset, BUDGETS)
    for step in islice(stream, 5):
        for batch in step.micro_batches:
            packed = batch.packed
            assert packed.llm_ids.shape[0] == 2
            assert packed.llm_ids.shape[1] <= 300
            assert len(packed.encoder_buckets) == 3
            flat = torch.cat([ids.flatten() for ids in packed.encoder_buckets])
            for i in range(len(batch)):
                own = packed.encoder.segment_ids == i
                assert (
                    packed.encoder.gather(flat)[own].tolist()
                    == batch.encoder_ids[i][batch.encoder_mask[i].bool()].tolist()
                )
    metrics = stream.metrics()
    assert 0 < metrics["padding/encoder"] < 0.5
    assert 0 <= metrics["padding/llm"] < 0.3
