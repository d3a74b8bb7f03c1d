"""Unit truth 8: spans of choices equal brute force, whatever the tokenizer and however often a text occurs."""

import copy
import random
from dataclasses import replace

import pytest

from mtllm_ds.data.text.cutting import encode_documents
from mtllm_ds.data.text.task_encoding import encode_item, fit_item
from mtllm_ds.data.text.tokenization import TextTokenizer, TokenizerSpec, load_text_tokenizer
from mtllm_ds.errors import UserError
from tests.fixtures.tokenizers import (
    TEXT,
    save_bert_tokenizer,
    save_llama_tokenizer,
    save_m2m100_tokenizer,
    save_nllb_tokenizer,
    save_xlm_r_tokenizer,
)

SAVE = {
    "nllb": save_nllb_tokenizer,
    "llama": save_llama_tokenizer,
    "bert": save_bert_tokenizer,
    "xlm-r": save_xlm_r_tokenizer,
    "m2m100": save_m2m100_tokenizer,  # slow, without offsets
}
TAGS = {"nllb": "deu_Latn", "m2m100": "deu_Latn"}


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    root = tmp_path_factory.mktemp("tokenizers")
    folders = {name: str(save(root / name)) for name, save in SAVE.items()}
    return {
        name: load_text_tokenizer(TokenizerSpec(name=folder, side="llm" if name == "llama" else "encoder"))
        for name, folder in folders.items()
    }


def characters_of_tokens(tokenizer, ids):
    """How many characters but blanks each token spells, told from its own text; bytes for byte-level ones.

    Only the digits of these texts are unknown to the tiny tokenizers: one character each.
    """
    pieces = [tokenizer._tokenizer.convert_ids_to_tokens(i) for i in ids]
    return [
        1 if piece in ("<unk>", "[UNK]") else len(piece.removeprefix("##").replace("▁", "").replace("Ġ", ""))
        for piece in pieces
    ]


def brute_force(tokenizer, name, segments, options, language):
    """Tokens of each answer by walking over the tokens and counting the characters they spell."""
    size = (lambda part: len(part.replace(" ", "").encode())) if name == "llama" else lambda p: len(p.replace(" ", ""))
    parts = [*segments, *(part for n, option in enumerate(options, 1) for part in (str(n), option))]
    ids = tokenizer([" ".join(parts)], language)
    inner = ids[len(tokenizer.template.prefix) : len(ids) - len(tokenizer.template.suffix)]
    spelled = characters_of_tokens(tokenizer, inner)
    starts = [sum(spelled[:i]) for i in range(len(spelled))]
    spans = []
    for n in range(len(options)):
        first = sum(size(part) for part in parts[: len(segments) + 2 * n + 1])
        end = first + size(options[n])
        own = [i for i, s in enumerate(starts) if s < end and s + spelled[i] > first and spelled[i]]
        spans.append((own[0] + len(tokenizer.template.prefix), own[-1] + 1 + len(tokenizer.template.prefix)))
    assert sum(spelled) == sum(size(part) for part in parts)
    return ids, spans


def items(seed, texts):
    rng = random.Random(seed)
    words = " ".join(texts).replace("\u200b", "").split()
    phrase = lambda longest: " ".join(rng.choices(words, k=rng.randint(1, longest)))  # noqa: E731
    for _ in range(25):
        repeated = phrase(3)
        options = rng.sample([repeated, phrase(4), f"{phrase(1)} {repeated}", phrase(2)], 4)
        yield (f"{phrase(20)} {repeated}", f"{phrase(5)} {repeated}?"), (*options[:3], options[0])


@pytest.mark.parametrize("name", SAVE)
def test_spans_equal_brute_force(tokenizers, name):
    tokenizer = tokenizers[name]
    for (passage, question), options in items(0, TEXT[:7] if name != "bert" else TEXT[:3]):
        segments = (passage, question.rstrip("?"))
        encoded = encode_item(tokenizer, segments, options, TAGS.get(name))
        ids, spans = brute_force(tokenizer, name, segments, options, TAGS.get(name))
        assert encoded.ids == ids
        assert encoded.choice_spans == spans
        assert spans[0] != spans[3]  # the same answer twice: two places


def test_a_character_of_several_byte_tokens_belongs_to_its_choice_whole(tokenizers):
    llama = tokenizers["llama"]
    options = ("ជ", "é", "🙂 ü", "x")
    encoded = encode_item(llama, ("the cells", "which"), options)
    ids, spans = brute_force(llama, "llama", ("the cells", "which"), options, None)
    assert (encoded.ids, encoded.choice_spans) == (ids, spans)
    assert spans[0][1] - spans[0][0] > 1


@pytest.mark.parametrize("name", SAVE)
def test_what_is_too_long_loses_its_longest_segment_and_no_choice(tokenizers, name):
    tokenizer, language = tokenizers[name], TAGS.get(name)
    question, options = "which cells", ("the formula", "the chart", "the formula")
    passage = " ".join(TEXT[:3])
    short = encode_item(tokenizer, ("x", question), options, language)
    for room in (8, 13, 24):
        limit = len(short.ids) + room
        item = fit_item((tokenizer,), (passage, question), options, language, (limit,))
        assert item.is_cut
        assert passage.startswith(item.segments[0])
        assert item.segments[1] == question
        encoded = item.sides[0]
        assert limit - 12 <= len(encoded.ids) <= limit
        assert encoded == encode_item(tokenizer, item.segments, options, language)
        suffix = len(tokenizer.template.suffix)
        assert encoded.ids[len(encoded.ids) - suffix :] == short.ids[len(short.ids) - suffix :]
        lengths = [end - start for start, end in encoded.choice_spans]
        assert lengths == [end - start for start, end in short.choice_spans]
    with pytest.raises(UserError, match=r"its choices take .* raise max_length"):
        encode_item(tokenizer, (passage, question), options, language, max_length=len(short.ids) - len(question))


@pytest.mark.parametrize("segments", [(TEXT[0],), (TEXT[1], TEXT[2]), (" ".join(TEXT[:3]), TEXT[0]), ("a", "")])
@pytest.mark.parametrize("limit", [16, 30, 200])
def test_texts_and_pairs_are_those_of_ordinary_shards(tokenizers, segments, limit):
    sides = tokenizers["nllb"], tokenizers["llama"]
    item = fit_item(sides, segments, (), "eng_Latn", (limit, limit))
    limited = [
        TextTokenizer(replace(side.spec, max_length=limit), copy.copy(side._tokenizer), side.family) for side in sides
    ]
    [[sample]] = encode_documents(limited, [segments], "eng_Latn")
    assert [side.ids for side in item.sides] == [sample.ids["encoder"], sample.ids["llm"]]
    assert item.segments == sample.segments
    assert all(side.choice_spans == [] for side in item.sides)
    one = encode_item(sides[0], segments, (), "eng_Latn", limit)
    assert one.ids[-1] == item.sides[0].ids[-1]
    assert len(one.ids) <= limit


def test_an_empty_choice_is_its_number(tokenizers):
    llama = tokenizers["llama"]
    encoded = encode_item(llama, ("the cells", "which"), ("a chart", " ", "a table"))
    start, end = encoded.choice_spans[1]
    assert llama.decode(encoded.ids[start:end]).strip() == "2"


def test_no_tag_no_item(tokenizers):
    with pytest.raises(UserError, match="needs a language tag"):
        encode_item(tokenizers["nllb"], ("x",))
    with pytest.raises(UserError, match="no tag for language 'kab_Latn'"):
        encode_item(tokenizers["nllb"], ("x",), language="kab_Latn")
