"""Translations equal transformers' own generation sentence by sentence; what is on disk is not made again; ranks agree."""

import time
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, M2M100ForConditionalGeneration

from mtllm_ds.cluster.agree import own_rank
from mtllm_ds.cluster.launch import join_cluster
from mtllm_ds.data.text.tokenization import TokenizerSpec, load_text_tokenizer
from mtllm_ds.errors import UserError
from mtllm_ds.transfer_sets.text_cache import TextCache
from mtllm_ds.transfer_sets.translation import translator as translator_module
from mtllm_ds.transfer_sets.translation.mt_model import Decoding, MTModel
from mtllm_ds.transfer_sets.translation.sentences import cut_in_two
from mtllm_ds.transfer_sets.translation.translator import Translator
from tests.distributed.ranks import ranks
from tests.fixtures.models import save_llama, save_mt_model
from tests.fixtures.tokenizers import TEXT

GERMAN = [TEXT[3] + " " + TEXT[4], "", TEXT[4], "Kurz."]


@pytest.fixture(scope="module")
def mt(tmp_path_factory) -> Path:
    """Larger weights than the usual ones, so that translations differ from sentence to sentence."""
    folder = save_mt_model(tmp_path_factory.mktemp("mt"))
    model = M2M100ForConditionalGeneration.from_pretrained(folder)
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.data.normal_(std=0.5)
    model.save_pretrained(folder)
    return folder


def plainly(folder: Path, sentence: str, source: str, target: str, num_beams: int) -> str:
    """One sentence by transformers alone."""
    tokenizer = AutoTokenizer.from_pretrained(folder, src_lang=source)
    model = M2M100ForConditionalGeneration.from_pretrained(folder).eval()
    batch = tokenizer([sentence], return_tensors="pt")
    ids = model.generate(
        **batch,
        forced_bos_token_id=tokenizer.convert_tokens_to_ids(target),
        max_new_tokens=int(1.5 * batch["input_ids"].shape[1]) + 10,
        num_beams=num_beams,
        do_sample=False,
    )
    return tokenizer.batch_decode(ids, skip_special_tokens=True)[0].strip()


@pytest.mark.parametrize("num_beams", [1, 3])
def test_translations_are_those_of_transformers(mt, num_beams):
    model = MTModel.from_pretrained(str(mt), decoding=Decoding(num_beams=num_beams), batch_size=3)
    found = Translator(model).translate(GERMAN, "deu_Latn", "eng_Latn")
    expected = [plainly(mt, text, "deu_Latn", "eng_Latn", num_beams) for text in (TEXT[3], TEXT[4], "Kurz.")]
    assert len(set(expected)) == 3
    assert found == [f"{expected[0]} {expected[1]}", "", expected[1], expected[2]]


def test_long_sentences_are_translated_in_parts(mt):
    halves = cut_in_two(TEXT[3])
    tokenizer = load_text_tokenizer(TokenizerSpec(name=str(mt), side="encoder"))
    longest = max(len(tokenizer([half], "deu_Latn")) for half in halves)
    model = MTModel.from_pretrained(str(mt), decoding=Decoding(max_source_tokens=longest), batch_size=2)
    found = Translator(model).translate([TEXT[3], *halves], "deu_Latn", "eng_Latn")
    assert found[0] == f"{found[1]} {found[2]}"
    assert found[0] != Translator(MTModel.from_pretrained(str(mt))).translate([TEXT[3]], "deu_Latn", "eng_Latn")[0]


def test_what_is_on_disk_is_not_made_again(mt, tmp_path):
    model = MTModel.from_pretrained(str(mt), batch_size=2)
    made = Translator(model, tmp_path)
    seen: list[tuple[int, int]] = []
    first = made.translate(GERMAN, "deu_Latn", "eng_Latn", progress=lambda *counts: seen.append(counts))
    assert seen == [(2, 3), (3, 3)]
    # A line that a killed process left unfinished is skipped.
    (cache_file,) = tmp_path.glob("*/*.jsonl")
    with cache_file.open("a") as stream:
        stream.write('{"sha256": "ab')
    tokenizer = load_text_tokenizer(TokenizerSpec(name=str(mt), side="encoder"))

    def without_model(**decoding):
        return Translator(MTModel(None, tokenizer, model._fingerprint, Decoding(**decoding)), tmp_path)

    assert without_model().translate(GERMAN, "deu_Latn", "eng_Latn") == first
    for other, source in ((without_model(), "fra_Latn"), (without_model(num_beams=2), "deu_Latn")):
        with pytest.raises(AttributeError):
            other.translate(GERMAN, source, "eng_Latn")


def test_keys_do_not_share_texts(tmp_path):
    TextCache(tmp_path, {"model": "a"}).add([("x", "of a")])
    assert "x" not in TextCache(tmp_path, {"model": "b"})
    assert TextCache(tmp_path, {"model": "a"})["x"] == "of a"


def translate_on_rank(folder: Path, cache: Path, alone: bool = False) -> tuple[list[str], int]:
    if not alone:
        join_cluster()
    seen = [0]
    found = Translator(MTModel.from_pretrained(str(folder)), cache).translate(
        [*TEXT[3:5], *TEXT[:3]], "deu_Latn", "eng_Latn", progress=lambda done, _: seen.append(done)
    )
    return found, seen[-1]


def test_ranks_share_the_work(mt, tmp_path):
    alone, _ = translate_on_rank(mt, tmp_path / "one", alone=True)
    (first, first_done), (second, second_done) = ranks(2).run(translate_on_rank, mt, tmp_path / "two")
    assert first == second == alone
    assert first_done + second_done == 5
    assert abs(first_done - second_done) <= 1


def translate_on_late_rank(folder: Path, cache: Path) -> tuple[list[str], int]:
    """As above, and rank 1 first looks at the cache when rank 0 has written to it."""

    class LateCache(TextCache):
        def __init__(self, *given):
            while own_rank() == 1 and not any(file.stat().st_size for file in cache.glob("*/*.jsonl")):
                time.sleep(0.05)
            super().__init__(*given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(translator_module, "TextCache", LateCache)
        return translate_on_rank(folder, cache)


def test_a_late_rank_still_does_its_own_share(mt, tmp_path):
    alone, _ = translate_on_rank(mt, tmp_path / "one", alone=True)
    (first, first_done), (second, second_done) = ranks(2).run(translate_on_late_rank, mt, tmp_path / "two")
    assert first == second == alone
    assert (first_done, second_done) == (3, 2)


def test_mistakes_are_told(mt, tmp_path):
    translator = Translator(MTModel.from_pretrained(str(mt)))
    with pytest.raises(UserError, match="no tag for language 'jpn_Jpan'"):
        translator.translate(["x"], "jpn_Jpan", "eng_Latn")
    with pytest.raises(UserError, match="no tag for language 'jpn_Jpan'"):
        translator.translate(["x"], "eng_Latn", "jpn_Jpan")
    with pytest.raises(UserError, match="a llama model"):
        MTModel.from_pretrained(str(save_llama(tmp_path)))
