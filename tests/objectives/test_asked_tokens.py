"""Masks: how many, which, and that nothing but step, sample and position decides them."""

import numpy as np
import pytest
import torch

from mtllm_ds.data.stream.collate import Batch, Collator
from mtllm_ds.data.text.vocabulary import Vocabulary
from mtllm_ds.errors import UserError
from mtllm_ds.objectives.asked_tokens import LONGEST_WORD, Draw, MaskedTokens, Masking, NextTokens

SIZE, MASK = 60, 4
SPECIAL = np.arange(SIZE) < 5
CONTINUES = np.arange(SIZE) >= 40
VOCABULARY = Vocabulary({}, SPECIAL, CONTINUES, MASK)
DRAW = Draw(7, 0.3)


def batch(lengths=(30, 12, 9, 3, 2), seed=0, valid=None):
    """Rows of [CLS] ... [SEP]."""
    ids = torch.randint(5, SIZE, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(seed))
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    ids[:, 0] = 2
    ids[torch.arange(len(lengths)), torch.tensor(lengths) - 1] = 3
    count = torch.arange(len(lengths))
    valid = torch.ones(len(lengths), dtype=torch.bool) if valid is None else valid
    nothing = torch.zeros(len(lengths), 0, dtype=torch.int64)
    return Batch(nothing, nothing, ids * mask, mask, count * 0, valid, count + 100, cells=count)


def masks(**options):
    return MaskedTokens(VOCABULARY, Masking(**options))


def test_the_share_of_each_text_is_masked_and_nothing_special():
    data = batch()
    data.llm_ids[1, 3:8] = 1  # unknown tokens
    asks = masks()
    shown, masked = asks.shown(data, DRAW)
    assert masked.sum(1).tolist() == [8, 2, 2, 1, 0] == asks.numbers(data, DRAW)  # of 28, 5, 7, 1 and 0 pieces
    assert not (masked & (torch.from_numpy(SPECIAL)[data.llm_ids] | (data.llm_mask == 0))).any()
    assert torch.equal(shown[~masked], data.llm_ids[~masked])
    half = batch(valid=torch.tensor([True, True, False, False, False]))
    assert asks.numbers(half, DRAW)[2:] == [0, 0, 0]
    assert torch.equal(asks.shown(half, DRAW).asked[:2], asks.shown(batch(), DRAW).asked[:2])


def test_masks_follow_step_sample_and_position_alone():
    data, asks = batch(), masks()
    shown, masked = asks.shown(data, DRAW)
    for row in range(4):
        width = int(data.llm_mask[row].sum())
        alone = Batch(**{
            name: value[row : row + 1, :width] if value.ndim > 1 else value[row : row + 1]
            for name, value in vars(data).items()
            if isinstance(value, torch.Tensor)
        })  # fmt: skip
        own = asks.shown(alone, DRAW)
        assert torch.equal(own.asked[0], masked[row, :width])
        assert torch.equal(own.ids[0], shown[row, :width])
    other = asks.shown(data, Draw(8, 0.3))
    assert not torch.equal(other.asked, masked)
    fixed = asks.shown(data, Draw(None, 0.3))
    assert not torch.equal(fixed.asked, masked)
    assert torch.equal(fixed.asked, asks.shown(data, Draw(None, 0.3)).asked)


def test_eighty_ten_ten():
    data = batch((500,) * 40)
    shown, masked = masks().shown(data, DRAW)
    total = int(masked.sum())
    by_mask = int((shown[masked] == MASK).sum())
    kept = int((shown[masked] == data.llm_ids[masked]).sum())
    assert by_mask / total == pytest.approx(0.8, abs=0.02)
    assert kept / total == pytest.approx(0.1, abs=0.02)
    changed = shown[masked & (shown != MASK) & (shown != data.llm_ids)]
    assert len(changed.unique()) == SIZE - 5
    assert changed.min() >= 5
    only = masks(mask_token_share=1.0, random_token_share=0.0).shown(data, DRAW)
    assert (only.ids[only.asked] == MASK).all()
    assert masked.double().mean(0)[1:-1].std() < 0.1  # no position is favoured


def words_of(ids):
    """[start, end) of the words of a row."""
    found = []
    for place, token in enumerate(ids.tolist()):
        goes_on = CONTINUES[token] and found and found[-1][1] == place and not SPECIAL[ids[place - 1]]
        if SPECIAL[token]:
            continue
        if goes_on and place - found[-1][0] < LONGEST_WORD:
            found[-1][1] = place + 1
        else:
            found.append([place, place + 1])
    return found


def test_whole_words():
    data, asks = batch((40, 30, 9, 4, 3) * 20), masks(whole_words=True)
    data.llm_ids[0, 1:39] = 50  # one word without an end, as in a script without blanks
    _, masked = asks.shown(data, DRAW)
    assert asks.numbers(data, DRAW) == masked.sum(1).tolist()
    for row in range(len(data)):
        words = words_of(data.llm_ids[row])
        taken = [masked[row, start:end] for start, end in words]
        assert all(word.all() or not word.any() for word in taken)
        wanted = 0.3 * sum(end - start for start, end in words)
        assert max(1, wanted) - LONGEST_WORD < sum(len(word) for word in taken if word.all()) < wanted + LONGEST_WORD
    assert masked[0].sum() in (LONGEST_WORD, 2 * LONGEST_WORD)  # 11.4 of 38 pieces are asked for


@pytest.mark.parametrize("share", [0.05, 0.15, 0.3])
@pytest.mark.parametrize("endless", [False, True])
def test_of_whole_words_the_share_is_exact_in_expectation(share, endless):
    """In every text, be its words short, or longer than what is to be masked of it."""
    lengths, num_draws = (64, 30, 17, 9, 4, 3), 1500
    data, asks = batch(lengths), masks(whole_words=True)
    if endless:
        data.llm_ids[:, 1] = 10
        data.llm_ids[:, 2:] = torch.where(data.llm_ids[:, 2:] > 4, 50, data.llm_ids[:, 2:])
    counts = torch.tensor([asks.numbers(data, Draw(seed, share)) for seed in range(num_draws)]).double()
    wanted = torch.tensor([max(1.0, share * (length - 2)) for length in lengths])
    error = (counts.mean(0) - wanted).abs()
    assert (error <= 4 * counts.std(0) / num_draws**0.5 + 1e-12).all()
    assert (counts - wanted).abs().max() < LONGEST_WORD


def test_next_tokens_are_all_but_the_first():
    data = batch()
    asks = NextTokens()
    shown, asked = asks.shown(data, DRAW)
    assert asked.sum(1).tolist() == asks.numbers(data, DRAW) == [29, 11, 8, 2, 1]
    assert not asked[:, 0].any()
    assert torch.equal(shown, data.llm_ids)


@pytest.mark.parametrize("asks", [masks(), masks(whole_words=True), NextTokens()])
def test_a_forward_without_samples_asks_for_nothing(asks):
    empty = Collator(pad_ids={"llm": 0})([])
    assert asks.numbers(empty, DRAW) == [0]
    assert not asks.shown(empty, DRAW).asked.any()


def test_vocabularies_that_cannot_be_masked():
    with pytest.raises(UserError, match=r"has no mask token; name a masked language model"):
        MaskedTokens(Vocabulary({}, SPECIAL, CONTINUES, None), Masking())
    with pytest.raises(UserError, match=r"objective\.whole_words=true: this tokenizer does not tell"):
        MaskedTokens(Vocabulary({}, SPECIAL, None, MASK), Masking(whole_words=True))
