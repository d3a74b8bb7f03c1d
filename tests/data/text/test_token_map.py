"""Pieces of different tokenizers are the same where they spell the same letters in the same place of a word."""

import numpy as np
import pytest

from mtllm_ds.data.text.token_map import TokenMap, map_tokens
from mtllm_ds.data.text.tokenization import TokenizerSpec, load_text_tokenizer
from tests.fixtures.tokenizers import (
    TEXT,
    save_bert_tokenizer,
    save_gemma_tokenizer,
    save_llama_tokenizer,
    save_xlm_r_tokenizer,
)


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizers")
    makers = {
        "word_piece": save_bert_tokenizer, "unigram": save_xlm_r_tokenizer, "bytes": save_llama_tokenizer,
        "sentence_piece": lambda place: save_gemma_tokenizer(place),
    }  # fmt: skip
    for name, make in makers.items():
        make(folder / name)
    return {
        name: load_text_tokenizer(TokenizerSpec(name=str(folder / name), side="llm", family="own")) for name in makers
    }


def spelled(name, piece):
    """What a piece says, by the marks of its kind of tokenizer."""
    if name == "word_piece":
        return piece.removeprefix("##"), not piece.startswith("##")
    mark = "Ġ" if name == "bytes" else "▁"
    return piece.removeprefix(mark), piece.startswith(mark)


@pytest.mark.parametrize("own", ["word_piece", "unigram", "bytes"])
@pytest.mark.parametrize("other", ["word_piece", "unigram", "bytes", "sentence_piece"])
def test_matched_pieces_spell_the_same(tokenizers, own, other):
    found = map_tokens(tokenizers[own], tokenizers[other])
    pieces = [{i: piece for piece, i in tokenizers[name].pretrained.get_vocab().items()} for name in (own, other)]
    special = set(tokenizers[own].pretrained.all_special_ids)
    matched = [i for i in np.flatnonzero(found.tells >= 0).tolist() if i not in special]
    assert len(matched) > 20
    for i in matched:
        one, two = spelled(own, pieces[0][i]), spelled(other, pieces[1][int(found.tells[i])])
        assert one == two or not (one[0] + two[0]).isascii()  # bytes of other letters are written otherwise
    told = found.tells[found.tells >= 0]
    assert len(set(told.tolist())) == len(told)
    assert (found.reads >= 0).all()


def test_special_tokens_meet_by_what_they_are_for(tokenizers):
    found = map_tokens(tokenizers["word_piece"], tokenizers["unigram"])
    own, other = tokenizers["word_piece"].pretrained, tokenizers["unigram"].pretrained
    for one, two in (("mask", "mask"), ("pad", "pad"), ("unk", "unk"), ("cls", "cls"), ("sep", "sep")):
        assert found.tells[getattr(own, f"{one}_token_id")] == getattr(other, f"{two}_token_id")
    unmatched = np.flatnonzero(found.tells < 0)
    assert len(unmatched)
    assert (found.reads[unmatched] == other.unk_token_id).all()


def test_a_tokenizer_meets_itself_wholly(tokenizers):
    for tokenizer in tokenizers.values():
        found = map_tokens(tokenizer, tokenizer)
        ids = np.array([i for text in TEXT[:3] for i in tokenizer([text], None)])
        assert (found.reads[ids] == ids).all() or tokenizer is tokenizers["bytes"]
        assert found.coverage(ids) > 0.95


def test_coverage_counts_tokens():
    tokens = TokenMap(np.array([4, -1, 5]), np.array([4, 0, 5]))
    assert tokens.num_matched == 2
    assert tokens.coverage(np.array([0, 1, 1, 2])) == 0.5
    assert tokens.coverage(np.array([], np.int64)) == 0.0
