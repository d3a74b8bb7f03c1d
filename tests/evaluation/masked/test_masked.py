"""Masked language models on plain text, against transformers one text at a time, and against what is known beforehand."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
)

from mtllm_ds.data.text.tokenization import TokenizerSpec, load_text_tokenizer
from mtllm_ds.data.writing.sources import InputFile
from mtllm_ds.errors import UserError
from mtllm_ds.evaluation.masked import evaluation
from mtllm_ds.evaluation.masked.evaluation import count_tokens, evaluate_masked, told_by
from mtllm_ds.evaluation.masked.model import MaskedLM
from mtllm_ds.evaluation.masked.passes import batches_of, rows_of
from mtllm_ds.evaluation.masked.scores import Texts, by_language, mean_of, score, uniform
from tests.fixtures.own_code import give_own_masked_model
from tests.fixtures.tokenizers import TEXT, save_bert_tokenizer

TEXTS = Texts(["eng_Latn"] * 3 + ["deu_Latn"] * 2, [*TEXT[:2], "Select.", *TEXT[3:5]])
CPU = torch.device("cpu")


def save_bert_lm(folder):
    save_bert_tokenizer(folder)
    torch.manual_seed(2)
    config = BertConfig(
        vocab_size=len(AutoTokenizer.from_pretrained(folder)), hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=128, initializer_range=0.3,
    )  # fmt: skip
    model = BertForMaskedLM(config)
    torch.nn.init.normal_(model.cls.predictions.bias)
    model.save_pretrained(folder)
    return folder


def save_modern_bert(folder):
    save_bert_tokenizer(folder)
    torch.manual_seed(3)
    config = ModernBertConfig(
        vocab_size=len(AutoTokenizer.from_pretrained(folder)), hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=128, initializer_range=0.3, pad_token_id=0, cls_token_id=2,
        sep_token_id=3, bos_token_id=2, eos_token_id=3, local_attention=8,
    )  # fmt: skip
    ModernBertForMaskedLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=[save_bert_lm, save_modern_bert])
def folder(request, tmp_path_factory):
    return request.param(tmp_path_factory.mktemp("masked") / "model")


@pytest.fixture(scope="module")
def model(folder):
    return MaskedLM.load(str(folder), None, torch.float32, CPU)


def evaluate(model, texts=TEXTS, **changes):
    options = {"num_passes": 3, "max_length": 100, "tokens_per_batch": 128} | changes
    return evaluate_masked(model, texts, **options)


def alone(folder, text, positions):
    """(nll, rank) of each position, all of them masked together, by transformers as it stands."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForMaskedLM.from_pretrained(folder).eval()
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    asked = ids.clone()
    asked[0, positions] = tokenizer.mask_token_id
    with torch.no_grad():
        chances = model(input_ids=asked).logits[0].log_softmax(-1)
    right = chances[positions, ids[0, positions]]
    return -right, (chances[positions] >= right[:, None]).sum(-1)


def test_one_token_at_a_time_is_the_eager_loop(folder, model):
    """As many passes as tokens: each is told with all others in sight."""
    sums = evaluate(model, num_passes=1000)["model"]
    for line, text in enumerate(TEXTS.texts):
        length = len(AutoTokenizer.from_pretrained(folder)(text)["input_ids"])
        told = [alone(folder, text, [position]) for position in range(1, length - 1)]
        nlls, ranks = (torch.cat(parts) for parts in zip(*told, strict=True))
        assert sums.num_tokens[line] == length - 2
        assert sums.nll[line] == pytest.approx(nlls.double().sum().item(), rel=1e-5)
        assert sums.reciprocal_rank[line] == pytest.approx((1 / ranks.double()).sum().item(), rel=1e-9)


def test_passes_are_the_eager_loop(folder, model):
    rows = list(rows_of(model.tokenizer, [(0, "deu_Latn", TEXT[3])], 3, 100, model.is_special))
    assert len(rows) == 3
    wanted = sum(alone(folder, TEXT[3], row.masked.tolist())[0].double().sum().item() for row in rows)
    sums = evaluate(model, Texts(["deu_Latn"], [TEXT[3]]))["model"]
    assert sums.nll[0] == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("max_length", [9, 100])
def test_each_token_is_masked_once(model, max_length):
    """In every text, also in windows of a long one and in a text with fewer tokens than passes."""
    numbered = [(n, *pair) for n, pair in enumerate(zip(TEXTS.languages, TEXTS.texts, strict=True))]
    rows = list(rows_of(model.tokenizer, numbered, 4, max_length, model.is_special))
    assert max(len(row.ids) for row in rows) <= max_length
    for line, text in enumerate(TEXTS.texts):
        ids = model.tokenizer.tokenize([text])[0].ids
        found = [row.ids[row.masked] for row in rows if row.line == line]
        assert sorted(np.concatenate(found)) == sorted(ids)
        windows = {row.ids.tobytes(): row.ids for row in rows if row.line == line}
        for window in windows.values():
            masked = np.concatenate(
                [row.masked for row in rows if row.line == line and row.ids.tobytes() == window.tobytes()]
            )
            assert sorted(masked) == list(range(1, len(window) - 1))
        if max_length == 100:
            assert max(map(len, found)) - min(map(len, found)) <= 1


def test_an_oracle_scores_1(model):
    numbered = [(n, *pair) for n, pair in enumerate(zip(TEXTS.languages, TEXTS.texts, strict=True))]
    rows = list(rows_of(model.tokenizer, numbered, 7, 100, model.is_special))
    vocab_size = model.tokenizer.vocab_size

    def oracle(batch):
        return 1000.0 * torch.nn.functional.one_hot(batch.wanted, vocab_size)

    def nobody(batch):
        return torch.zeros(len(batch.wanted), vocab_size)

    def scores(tell):
        sums = score(batches_of(rows, model.mask_id, 0, 64, CPU), tell, len(TEXTS.texts))
        return by_language(sums, TEXTS)

    for own in scores(oracle).values():
        assert (own.mrr, own.nll) == (1.0, 0.0)
    for own in scores(nobody).values():
        assert own.mrr == pytest.approx(1 / vocab_size)
        assert own.nll == pytest.approx(math.log(vocab_size))


def test_company_and_order_change_nothing(model, monkeypatch):
    together = evaluate(model)["model"]
    for changes in ({"tokens_per_batch": 1}, {"tokens_per_batch": 10_000}):
        np.testing.assert_allclose(evaluate(model, **changes)["model"].nll, together.nll, rtol=1e-5)
    monkeypatch.setattr(evaluation, "_STRETCH", 2)
    np.testing.assert_allclose(evaluate(model)["model"].nll, together.nll, rtol=1e-5)
    turned = Texts(TEXTS.languages[::-1], TEXTS.texts[::-1])
    np.testing.assert_allclose(evaluate(model, turned)["model"].nll[::-1], together.nll, rtol=1e-5)


def test_figures_of_languages_are_ratios_of_sums(model):
    sums = evaluate(model)["model"]
    scores = by_language(sums, TEXTS)
    german = slice(3, 5)
    num_bytes = sum(len(text.encode()) for text in TEXTS.texts[german])
    assert scores["deu_Latn"].nll == pytest.approx(sums.nll[german].sum() / sums.num_tokens[german].sum())
    assert scores["deu_Latn"].nll_per_byte == pytest.approx(sums.nll[german].sum() / num_bytes)
    mean = mean_of(scores, ["deu_Latn", "eng_Latn"])
    assert mean.nll == pytest.approx((scores["deu_Latn"].nll + scores["eng_Latn"].nll) / 2)


def test_baselines_are_those_of_counting_by_hand(model, tmp_path):
    training = {"eng_Latn": TEXT[1], "deu_Latn": TEXT[4]}
    files = []
    for code, text in training.items():
        path = tmp_path / f"{code}.tsv"
        path.write_text(text + "\n", encoding="utf-8")
        files.append(InputFile(path=str(path), language=code, text_field="1"))
    sums = evaluate(model, counts=count_tokens(model, files))
    vocab_size = model.tokenizer.vocab_size
    for line, (code, text) in enumerate(zip(TEXTS.languages, TEXTS.texts, strict=True)):
        ids = model.tokenizer.tokenize([text])[0].ids
        seen = model.tokenizer.tokenize([training[code]])[0].ids
        chances = [(seen.count(i) + 1) / (len(seen) + vocab_size) for i in range(vocab_size)]
        assert sums["unigram"].nll[line] == pytest.approx(-sum(math.log(chances[i]) for i in ids))
        ranks = [sum(other >= chances[i] for other in chances) for i in ids]
        assert sums["unigram"].reciprocal_rank[line] == pytest.approx(sum(1 / rank for rank in ranks))
        assert sums["uniform"].nll[line] == pytest.approx(len(ids) * math.log(vocab_size))
    assert (uniform([np.arange(3)], 10).reciprocal_rank == 3 / 10).all()
    with pytest.raises(UserError, match=r"--training-text: none of eng_Latn"):
        evaluate(model, counts=count_tokens(model, files[1:]))


def test_ids_are_those_that_the_model_was_trained_on(folder, model):
    """Shards and evaluation read a tokenizer alike."""
    ours = load_text_tokenizer(TokenizerSpec(name=str(folder), side="llm"))
    (row, *_) = rows_of(model.tokenizer, [(0, "deu_Latn", TEXT[3])], 3, 100, model.is_special)
    assert row.ids.tolist() == ours([TEXT[3]], "deu_Latn")


def test_training_text_is_counted_in_stretches(model, tmp_path, monkeypatch):
    """No more of it is held than a stretch, and the counts are those of the whole."""
    path = tmp_path / "text.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXT[:3] * 7), encoding="utf-8")
    source, seen = InputFile(path=str(path), language="eng_Latn"), []
    whole = count_tokens(model, [source])["eng_Latn"]
    tokenize = model.tokenizer.tokenize
    monkeypatch.setattr(evaluation, "_STRETCH", 4)
    monkeypatch.setattr(model.tokenizer, "tokenize", lambda texts: seen.append(len(texts)) or tokenize(texts))
    progress = []
    counts = count_tokens(model, [source], lambda *done: progress.append(done))["eng_Latn"]
    assert seen == [4, 4, 4, 4, 4, 1]
    assert (counts == whole).all()
    assert counts.sum() == 7 * sum(len(tokens.ids) for tokens in tokenize(TEXT[:3]))
    assert progress[-1] == (path.stat().st_size, path.stat().st_size)


def test_what_the_tokenizer_does_not_know_is_not_scored(folder, model):
    """Neither masked nor counted, and its bytes are in no figure; the rest is told as it would be."""
    unknown = "\u2603"
    text = f"{TEXT[3]} {unknown} {unknown}{unknown} und"
    texts = told_by(Texts(["deu_Latn"] * 2, [text, TEXT[4]]), model)
    ids = np.array(model.tokenizer.tokenize([text])[0].ids)
    is_unknown = ids == model.tokenizer.unknown_id
    assert 1 <= is_unknown.sum() == texts.unknown_tokens[0]
    assert texts.num_bytes[0] == len(text.encode()) - 3 * len(unknown.encode())
    sums = evaluate(model, texts, num_passes=1000, counts={"deu_Latn": np.ones(model.tokenizer.vocab_size)})
    places = 1 + np.flatnonzero(~is_unknown)
    wanted = sum(alone(folder, text, [place])[0].item() for place in places)
    assert sums["model"].nll[0] == pytest.approx(wanted, rel=1e-5)
    for own in sums.values():
        assert own.num_tokens.tolist() == [len(places), len(model.tokenizer.tokenize([TEXT[4]])[0].ids)]
    shares = texts.unknown_shares(sums["model"].num_tokens)
    assert shares["deu_Latn"] == pytest.approx(is_unknown.sum() / (is_unknown.sum() + sums["model"].num_tokens.sum()))
    with pytest.raises(UserError, match="knows nothing of the text of khm_Khmr; leave that out"):
        told_by(Texts(["deu_Latn", "khm_Khmr"], [TEXT[4], unknown]), model)


def test_a_model_with_code_of_its_own_is_scored_where_it_is_trusted(tmp_path):
    known = save_bert_lm(tmp_path / "known")
    own = give_own_masked_model(shutil.copytree(known, tmp_path / "own"))
    with pytest.raises(UserError, match=r"^--model=.*own: brings code of its own; add --trust-remote-code"):
        MaskedLM.load(str(own), None, torch.float32, CPU)
    models = [
        MaskedLM.load(str(place), None, torch.float32, CPU, trust_remote_code=place == own) for place in (known, own)
    ]
    assert [model.tells_all for model in models] == [False, True]
    one, other = (evaluate(model)["model"] for model in models)
    np.testing.assert_allclose(one.nll, other.nll, rtol=1e-6)
    np.testing.assert_array_equal(one.num_tokens, other.num_tokens)
    for revision in (None, "main"):
        with pytest.raises(UserError, match=rf"^--revision={revision}: code from the hub runs at one commit only"):
            MaskedLM.load("someone/bert", revision, torch.float32, CPU, trust_remote_code=True)
