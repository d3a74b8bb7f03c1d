"""A tokenizer of one's own: what AutoTokenizer makes of the folder, who is sampled how much, and that it is the same each time."""

import json
import lzma
import os
import subprocess
import sys

import pytest
from transformers import AutoTokenizer

from mtllm_ds.atomic import sha256_file
from mtllm_ds.data.text.tokenization import TokenizerSpec, load_text_tokenizer
from mtllm_ds.data.writing.sources import InputFile
from mtllm_ds.data.writing.tokenizer_training import TokenizerSettings, copies_by_language, train_tokenizer
from mtllm_ds.errors import UserError
from tests.fixtures.runs import REPOSITORY

TEXT = REPOSITORY / "assets" / "text"
INPUTS = tuple(
    InputFile(path=str(TEXT / f"parallel_{code}.jsonl.xz"), language=code)
    for code in ("deu_Latn", "khm_Khmr", "jpn_Jpan")
)
GERMAN = "Wählen Sie die Zellen mit der Formel."


def settings(**changes):
    return TokenizerSettings(**({"inputs": INPUTS, "vocab_size": 1200} | changes))


@pytest.fixture(scope="module", params=["wordpiece", "bpe", "unigram"])
def masked(request, tmp_path_factory):
    """(folder, figures) of a tokenizer for masked language models."""
    folder = tmp_path_factory.mktemp("tokenizers") / request.param
    return folder, train_tokenizer(settings(algorithm=request.param), folder)


def test_it_loads_with_what_a_masked_lm_needs(masked):
    folder, _ = masked
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert 500 < len(tokenizer) <= 1200
    assert (tokenizer.mask_token, tokenizer.pad_token) == ("[MASK]", "[PAD]")
    ids = tokenizer(GERMAN)["input_ids"]
    assert (ids[0], ids[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)
    assert tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "") == GERMAN.replace(" ", "")
    both = tokenizer(GERMAN, GERMAN)["input_ids"]
    assert both == [*ids, *ids[1:]]


def test_shards_read_it_as_it_reads_itself(masked):
    """Without a model beside it, the template is BERT's."""
    folder, _ = masked
    ours = load_text_tokenizer(TokenizerSpec(name=str(folder), side="llm"))
    assert ours([GERMAN], "deu_Latn") == AutoTokenizer.from_pretrained(folder)(GERMAN)["input_ids"]


def test_figures_are_those_of_counting(masked):
    folder, figures = masked
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for code in ("deu_Latn", "jpn_Jpan"):
        with lzma.open(TEXT / f"parallel_{code}.jsonl.xz", "rt", encoding="utf-8") as file:
            texts = [json.loads(line)["text"].strip() for line in file]
        ids = [i for text in texts for i in tokenizer(text, add_special_tokens=False)["input_ids"]]
        units = sum(len(text.split()) if code == "deu_Latn" else sum(not c.isspace() for c in text) for text in texts)
        assert figures[code].tokens_per_unit == pytest.approx(len(ids) / units)
        assert figures[code].unknown_share == ids.count(tokenizer.unk_token_id) / len(ids)
        assert figures[code].text_bytes == sum(len(text.encode()) for text in texts)
    assert figures["jpn_Jpan"].unit == "character"
    if folder.name == "bpe":
        assert all(own.unknown_share == 0 for own in figures.values())
    written = json.loads((folder / "tokenizer_training.json").read_text())
    assert written["languages"]["deu_Latn"]["tokens_per_unit"] == figures["deu_Latn"].tokens_per_unit


def test_a_causal_one_reads_as_decoders_do(tmp_path):
    train_tokenizer(settings(algorithm="bpe", use="causal"), tmp_path / "causal")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "causal")
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == ("<bos>", "<eos>", "<pad>")
    ids = tokenizer(GERMAN)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(ids, skip_special_tokens=True) == GERMAN
    ours = load_text_tokenizer(TokenizerSpec(name=str(tmp_path / "causal"), side="llm"))
    assert ours.family == "decoder"
    assert ours([GERMAN], None) == ids


def test_what_a_text_spells_is_no_special_token(tmp_path):
    """Characters are numbered as special tokens while WordPiece is trained: none of them stays one."""
    train_tokenizer(settings(), tmp_path / "wordpiece")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "wordpiece")
    assert sorted(tokenizer.get_added_vocab()) == ["[CLS]", "[MASK]", "[PAD]", "[SEP]", "[UNK]"]
    assert "##a" in tokenizer.get_vocab()
    assert "##a" not in tokenizer.tokenize("##a")


def test_normalisation_is_what_was_asked_for(tmp_path):
    train_tokenizer(settings(lowercase=True, strip_accents=True, unicode_form="nfkc"), tmp_path / "plain")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "plain")
    assert tokenizer.backend_tokenizer.normalizer.normalize_str("Äﬁ Été") == "afi ete"


def test_shares_follow_the_temperature():
    sizes = {"deu_Latn": 16_000, "khm_Khmr": 1_000}
    for temperature, wanted in ((1.0, 16.0), (2.0, 4.0), (1e9, 1.0)):
        copies = copies_by_language(sizes, temperature, sample_bytes=1 << 40)
        taken = {code: copies[code] * size for code, size in sizes.items()}
        assert sum(taken.values()) == pytest.approx(17_000)  # no more than there is
        assert taken["deu_Latn"] / taken["khm_Khmr"] == pytest.approx(wanted)
    small = copies_by_language(sizes, 1.0, sample_bytes=1_700)
    assert small == {code: pytest.approx(0.1) for code in sizes}


def test_the_sample_has_these_shares(tmp_path):
    figures = train_tokenizer(settings(temperature=1e9, sample_bytes=60_000), tmp_path / "even")
    assert sum(own.sampled_share for own in figures.values()) == pytest.approx(1)
    assert all(own.sampled_share == pytest.approx(1 / 3, abs=0.06) for own in figures.values())


@pytest.mark.parametrize("algorithm", ["wordpiece", "unigram"])
def test_another_process_writes_the_same_bytes(algorithm, tmp_path):
    """With several threads, too, and another order of Python's sets."""
    digests = []
    for name, threads in (("one", "1"), ("two", "2")):
        files = [f"{source.language}={source.path}" for source in INPUTS]
        command = ["launchers/prepare.py", "tokenizer", "--input", *files, "--vocab-size", "1200"]
        command += ["--algorithm", algorithm, "--output", str(tmp_path / name)]
        environment = {
            **os.environ,
            "RAYON_NUM_THREADS": threads,
            "PYTHONHASHSEED": threads,
            "TOKENIZERS_PARALLELISM": "true",
        }
        done = subprocess.run(
            [sys.executable, *command], cwd=REPOSITORY, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert "tokens per word" in done.stdout
        digests.append(sha256_file(tmp_path / name / "tokenizer.json"))
    assert digests[0] == digests[1]


def test_mistakes_are_one_line(tmp_path):
    folder = tmp_path / "there"
    folder.mkdir()
    (folder / "kept").touch()
    with pytest.raises(UserError, match="is there already"):
        train_tokenizer(settings(), folder)
    with pytest.raises(UserError, match=r"--output=.*kept: cannot be written"):
        train_tokenizer(settings(), folder / "kept")
    for algorithm, size in (("wordpiece", 8), ("bpe", 200), ("unigram", 40)):
        with pytest.raises(UserError, match=rf"--vocab-size={size}: .*; (raise|change) it"):
            train_tokenizer(settings(algorithm=algorithm, vocab_size=size), tmp_path / "small")
    assert not (tmp_path / "small").exists()
    blank = tmp_path / "blank.jsonl"
    blank.write_text('{"text": " "}\n')
    with pytest.raises(UserError, match="holds no text"):
        train_tokenizer(settings(inputs=(InputFile(path=str(blank), language="deu_Latn"),)), tmp_path / "none")


def test_the_same_again_was_there(tmp_path):
    """A run that was killed after the folder took its name goes on; other settings are refused."""
    first = train_tokenizer(settings(), tmp_path / "made")
    written = (tmp_path / "made" / "tokenizer.json").stat().st_mtime_ns
    assert train_tokenizer(settings(), tmp_path / "made") == first
    assert (tmp_path / "made" / "tokenizer.json").stat().st_mtime_ns == written
    with pytest.raises(UserError, match="was made of other settings; remove it"):
        train_tokenizer(settings(seed=5), tmp_path / "made")
