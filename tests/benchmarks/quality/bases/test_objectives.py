"""The losses of the base models against transformers' own, and on cases whose answer is known."""

import math

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, M2M100Config, M2M100ForConditionalGeneration

from benchmarks.quality.bases import llama_objectives, mt_objective


@pytest.fixture
def mt():
    torch.manual_seed(0)
    config = M2M100Config(
        vocab_size=40, d_model=16, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=32, decoder_ffn_dim=32,
        encoder_attention_heads=2, decoder_attention_heads=2, dropout=0.0, encoder_layerdrop=0.0, decoder_layerdrop=0.0,
        pad_token_id=1, decoder_start_token_id=2,
    )  # fmt: skip
    return M2M100ForConditionalGeneration(config).eval()


@pytest.fixture
def llama():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, bos_token_id=1,
        pad_token_id=3,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def batch_of(rows, pad_id):
    return mt_objective.pad(rows, pad_id)


def test_padding_is_to_multiples_of_8_and_masked():
    batch = batch_of([[5, 6, 7], [8] * 9], 1)
    assert batch["ids"].shape == (2, 16)
    assert batch["mask"].sum(1).tolist() == [3, 9]


def test_translation_loss_equals_transformers(mt):
    source, target = batch_of([[5, 6, 7, 2], [8, 9, 2]], 1), batch_of([[11, 12, 2], [13, 14, 15, 2]], 1)
    states = mt.model.encoder(input_ids=source["ids"], attention_mask=source["mask"])[0]
    ours = mt_objective.translation_loss(mt, states, source["mask"], target, label_smoothing=0.0)
    labels = target["ids"].masked_fill(target["mask"] == 0, -100)
    theirs = mt(input_ids=source["ids"], attention_mask=source["mask"], labels=labels).loss
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-5)


def test_ranking_is_chance_for_equal_vectors_and_zero_for_far_apart_pairs():
    same = torch.ones(8, 4)
    assert mt_objective.ranking_loss(same, same).item() == pytest.approx(math.log(8))
    apart = 100 * torch.eye(8)
    assert mt_objective.ranking_loss(apart, apart).item() == pytest.approx(0.0, abs=1e-6)


def test_offset_is_0_for_equal_pairs_and_about_2_for_unrelated_ones():
    u, v = torch.randn(4000, 8, generator=torch.Generator().manual_seed(0)).split(2000)
    assert mt_objective.offset_loss(u, u).item() == 0.0
    assert mt_objective.offset_loss(u, v).item() == pytest.approx(2.0, abs=0.1)


def test_some_tokens_keeps_at_least_one_and_adds_none():
    mask = torch.tensor([[1, 0, 0, 0], [1, 1, 1, 1]])
    for _ in range(20):
        kept = mt_objective.some_tokens(mask)
        assert (kept <= mask).all()
        assert (kept.sum(1) >= 1).all()


def test_similar_lengths_visits_each_item_once_in_even_runs():
    lengths = torch.randint(1, 100, (640,), generator=torch.Generator().manual_seed(0)).tolist()
    order = list(mt_objective.SimilarLengths(lengths, batch_size=16))
    assert sorted(order) == list(range(640))
    spreads = [max(run) - min(run) for i in range(0, 640, 16) for run in [[lengths[j] for j in order[i : i + 16]]]]
    assert sum(spreads) / len(spreads) < 15


def test_mt_loss_trains_the_decoder_only_when_translation_is_weighted(mt):
    batch = {v: batch_of([[5, 6, 2], [7, 8, 9, 2], [7, 9, 2], [4, 2]], 1) for v in mt_objective.VIEWS}
    for weight in (0.0, 1.0):
        mt.zero_grad()
        loss, parts = mt_objective.mt_loss(mt, batch, offset_weight=1.0, translation_weight=weight)
        loss.backward()
        assert (mt.model.decoder.layers[0].fc1.weight.grad is not None) == bool(weight)
        assert ("into_english" in parts) == bool(weight)


def test_causal_loss_equals_transformers(llama):
    rows = [[1, 5, 6, 7], [1, 8, 9]]
    batch = batch_of(rows, 3)
    labels = batch["ids"].masked_fill(batch["mask"] == 0, -100)
    theirs = llama(input_ids=batch["ids"], attention_mask=batch["mask"], labels=labels).loss
    assert llama_objectives.causal_loss(llama, batch).item() == pytest.approx(theirs.item(), abs=1e-5)


def test_windows_begin_at_paragraphs_and_lose_nothing_that_fits():
    pages = [[[1, 5, 6], [1, 7], [1, 8, 9, 10]], [[1] + [4] * 20]]
    windows = llama_objectives.Windows(pages, width=6)
    assert list(windows) == [[1, 5, 6, 1, 7], [1, 8, 9, 10], [1, 4, 4, 4, 4, 4]]


def test_translation_losses_equal_transformers(mt):
    batch = {v: batch_of([[5, 6, 2], [7, 8, 9, 2], [7, 9, 2], [4, 2]], 1) for v in mt_objective.VIEWS}
    batch["foreign"]["ids"] = batch["foreign"]["ids"].flip(0)
    batch["foreign"]["mask"] = batch["foreign"]["mask"].flip(0)
    found = mt_objective.translation_losses(mt.eval(), batch, mt_objective.encode_views(mt, batch))
    for name, source, target, count in (
        ("into_english", "foreign", "english", 4),
        ("out_of_english", "english", "foreign", 1),
        ("english_from_english", "english", "english", 2),
    ):
        read, wanted = ({key: rows[:count] for key, rows in batch[view].items()} for view in (source, target))
        labels = wanted["ids"].masked_fill(wanted["mask"] == 0, -100)
        logits = mt(input_ids=read["ids"], attention_mask=read["mask"], labels=labels).logits
        theirs = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), label_smoothing=0.05)
        assert found[name].item() == pytest.approx(theirs.item(), abs=1e-5)
