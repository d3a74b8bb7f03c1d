"""One-token words of both sides, against a brute force that spells every token."""

import re

import numpy as np
import pytest

from mtllm_ds.data.shards.tar_shards import read_block
from mtllm_ds.data.stream.stream import EvalStream
from mtllm_ds.data.text.tokenization import TokenizerSpec, load_text_tokenizer
from mtllm_ds.data.writing.builder import build_shards
from mtllm_ds.data.writing.settings import ShardSettings
from mtllm_ds.data.writing.sources import InputFile
from mtllm_ds.data.writing.tasks import TaskShardSettings, build_task_shards
from mtllm_ds.data.writing.token_pairs import token_pairs_column
from mtllm_ds.errors import UserError
from tests.data.conftest import sentences
from tests.data.writing.test_tasks import CHOICE, choice_rows
from tests.fixtures.tokenizers import (
    TEXT,
    save_bert_tokenizer,
    save_llama_tokenizer,
    save_m2m100_tokenizer,
    save_nllb_tokenizer,
)

TEXTS = [*TEXT, "Dialog, table; (the) the-table x_y", "ជ é 🙂 ü the", "", "   ", "der  Dialog\tdes"]


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    root = tmp_path_factory.mktemp("tokenizers")
    saves = {
        "nllb": save_nllb_tokenizer,
        "llama": save_llama_tokenizer,
        "bert": save_bert_tokenizer,
        "m2m100": save_m2m100_tokenizer,
    }
    return {
        name: load_text_tokenizer(
            TokenizerSpec(name=str(save(root / name)), side="llm" if name == "llama" else "encoder")
        )
        for name, save in saves.items()
    }


def whole_words(tokenizer, texts):
    """{(text, first character): position} of tokens that spell a whole word, told by walking over the pieces; English only."""
    found, position = {}, len(tokenizer.template.prefix)
    for number, text in enumerate(texts):
        at, words = 0, {match.span() for match in re.finditer(r"\w+", text)}
        [tokens] = tokenizer.tokenize([text])
        for i, token in enumerate(tokens.ids):
            piece = tokenizer._tokenizer.convert_ids_to_tokens(token)
            spelled = piece.removeprefix("##").replace("▁", "").replace("Ġ", "")
            while spelled and text[at].isspace():
                at += 1
            assert text[at : at + len(spelled)].lower() == spelled.lower()
            if (at, at + len(spelled)) in words:
                found[number, at] = position + i
            at += len(spelled)
        position += len(tokens.ids) + len(tokenizer.template.between)
    return found


@pytest.mark.parametrize("text", TEXT[:3])
@pytest.mark.parametrize("encoder", ["nllb", "bert"])
def test_pairs_equal_brute_force(tokenizers, encoder, text):
    left, right = tokenizers[encoder], tokenizers["llama"]
    samples = [(text,), (text, TEXT[1]), (TEXT[2], text)]
    column = token_pairs_column((left, right), samples)
    for row, texts in enumerate(samples):
        one, other = (whole_words(side, texts) for side in (left, right))
        expected = sorted((one[word], other[word]) for word in one.keys() & other.keys())
        assert column[row].tolist() == [list(pair) for pair in expected]
        assert len(expected) > 5


def test_what_the_tokens_at_a_pair_spell(tokenizers):
    left, right = tokenizers["nllb"], tokenizers["llama"]
    samples = [(text,) for text in TEXTS]
    for (text,), pairs in zip(samples, token_pairs_column((left, right), samples), strict=True):
        sides = left([text], "deu_Latn"), right([text], None)
        words = re.findall(r"\w+", text)
        for pair in pairs.tolist():
            one, other = (
                side.decode([ids[at]]).strip() for side, ids, at in zip((left, right), sides, pair, strict=True)
            )
            assert one == other
            assert one in words
        assert len(np.unique(pairs[:, 0])) == len(np.unique(pairs[:, 1])) == len(pairs)


def test_without_offsets_it_is_refused(tokenizers):
    with pytest.raises(UserError, match="tells no offsets; leave --token-pairs out"):
        token_pairs_column((tokenizers["m2m100"], tokenizers["llama"]), [("x",)])


def test_the_column_comes_with_batches(tmp_path, specs, text_files):
    source = InputFile(path=str(text_files["eng_Latn"]), language="eng_Latn")
    settings = ShardSettings(inputs=(source,), **specs, token_pairs=True)
    manifest = build_shards(settings, tmp_path / "shards", num_workers=1)
    batch = next(iter(EvalStream(manifest, batch_size=40)))
    stored = read_block(manifest, 0)["token_pairs"]
    pairs = batch.extras["token_pairs"]
    for row in range(40):
        assert pairs[row, : len(stored[row])].tolist() == stored[row].tolist()
        assert pairs[row, len(stored[row]) :].eq(-1).all()
    assert any(len(stored[row]) for row in range(40))


def test_labelled_shards_have_it_too(tmp_path, specs):
    sides = [load_text_tokenizer(specs[side]) for side in ("encoder", "llm")]
    assert sentences(1, 3)
    manifest = build_task_shards(
        choice_rows(9), TaskShardSettings(task=CHOICE, **specs, token_pairs=True), tmp_path / "shards"
    )
    block = read_block(manifest, 0)
    for row in range(9):
        for left, right in block["token_pairs"][row].tolist():
            ids = [[int(block["encoder_ids"][row][left])], [int(block["llm_ids"][row][right])]]
            one, other = (side.decode(i).strip() for side, i in zip(sides, ids, strict=True))
            assert one == other
