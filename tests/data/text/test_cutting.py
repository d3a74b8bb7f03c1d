import pytest

from mtllm_ds.data.text.cutting import encode_documents
from mtllm_ds.data.text.tokenization import TextTokenizer, TokenizerSpec, load_text_tokenizer
from mtllm_ds.errors import UserError
from tests.fixtures.tokenizers import TEXT, save_llama_tokenizer, save_nllb_tokenizer


@pytest.fixture(scope="module")
def sides(tmp_path_factory):
    root = tmp_path_factory.mktemp("tokenizers")
    encoder, llm = str(save_nllb_tokenizer(root / "nllb")), str(save_llama_tokenizer(root / "llama"))

    def load(max_encoder, max_llm):
        return (
            load_text_tokenizer(TokenizerSpec(name=encoder, side="encoder", max_length=max_encoder)),
            load_text_tokenizer(TokenizerSpec(name=llm, side="llm", max_length=max_llm)),
        )

    return load


LONG = " ".join(TEXT)


@pytest.mark.parametrize("lengths", [(16, 512), (512, 16), (40, 40), (33, 64)])
@pytest.mark.parametrize("text", [LONG, TEXT[-1] * 3, "x" * 3000, "🙂" * 200])
def test_both_sides_read_the_same_prefix_and_fit(sides, lengths, text):
    encoder, llm = sides(*lengths)
    [[sample]] = encode_documents((encoder, llm), [(text,)], "eng_Latn")
    assert sample.is_cut
    [kept] = sample.segments
    assert text.startswith(kept)
    assert sample.ids["encoder"] == encoder([kept], "eng_Latn")
    assert sample.ids["llm"] == llm([kept], "eng_Latn")
    assert len(sample.ids["encoder"]) <= lengths[0]
    assert len(sample.ids["llm"]) <= lengths[1]
    # No more was cut than needed: eight further characters fit one side no longer (a character is at most 4 bytes).
    longer = text[: len(kept) + 8]
    assert len(encoder([longer], "eng_Latn")) > lengths[0] or len(llm([longer], "eng_Latn")) > lengths[1]


def test_a_text_that_fits_is_left_alone(sides):
    encoder, llm = sides(512, 512)
    samples = encode_documents((encoder, llm), [(text,) for text in TEXT], "deu_Latn")
    assert [s.segments for [s] in samples] == [(text,) for text in TEXT]
    assert not any(s.is_cut for [s] in samples)


def test_split_loses_no_character_but_blanks(sides):
    encoder, llm = sides(24, 40)
    [pieces] = encode_documents((encoder, llm), [(LONG * 5,)], "eng_Latn", "split")
    assert "".join("".join(p.segments[0].split()) for p in pieces) == "".join((LONG * 5).split())
    assert all(len(p.ids["encoder"]) <= 24 and len(p.ids["llm"]) <= 40 for p in pieces)
    assert [p.is_cut for p in pieces] == [True] * (len(pieces) - 1) + [False]


def test_of_a_pair_the_longer_segment_gives_first(sides):
    encoder, llm = sides(40, 512)
    [[sample]] = encode_documents((encoder, llm), [("the cells", LONG)], "eng_Latn")
    assert sample.segments[0] == "the cells"
    assert LONG.startswith(sample.segments[1])
    assert len(sample.ids["encoder"]) <= 40
    with pytest.raises(UserError, match="cannot be split"):
        encode_documents((encoder, llm), [("a", "b")], "eng_Latn", "split")


def test_the_cost_of_splitting_is_that_of_the_text(sides, monkeypatch):
    """Characters that are tokenized, by both sides, for each that the text holds: a constant, however long it is."""
    encoder, llm = sides(24, 40)
    tokenize, read = TextTokenizer.tokenize, []
    monkeypatch.setattr(
        TextTokenizer, "tokenize", lambda self, texts: read.append(sum(map(len, texts))) or tokenize(self, texts)
    )
    for times in (20, 80):
        read.clear()
        text = LONG * times
        encode_documents((encoder, llm), [(text,)], "eng_Latn", "split")
        assert sum(read) < 10 * len(text)
