"""`mtllm-ds evaluate masked` from the command line: what it leaves, and one line for every mistake."""

import json

import pytest
import torch
from pyarrow import parquet
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM

from mtllm_ds.commands import run_command
from mtllm_ds.errors import UserError
from tests.fixtures.tokenizers import TEXT, save_bert_tokenizer, save_llama_tokenizer


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a model, and text of two languages: English TAB translation."""
    folder = tmp_path_factory.mktemp("evaluate_masked")
    save_bert_tokenizer(folder / "model")
    torch.manual_seed(0)
    size = len(AutoTokenizer.from_pretrained(folder / "model"))
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertForMaskedLM(BertConfig(vocab_size=size, max_position_embeddings=64, **sizes)).save_pretrained(folder / "model")
    for code, texts in (("deu_Latn", TEXT[3:5]), ("fra_Latn", TEXT[5:7])):
        rows = (f"{english}\t{text}\n" for english, text in zip(TEXT[:2], texts, strict=True))
        (folder / f"{code}.tsv").write_text("".join(rows), encoding="utf-8")
    return folder


def evaluate(place, *more, model="model", output="scores"):
    files = [f"{code}={place}/{code}.tsv" for code in ("deu_Latn", "fra_Latn")]
    given = ["--model", f"{place}/{model}", "--input", *files, "--text-field", "2", "--device", "cpu"]
    return run_command(["evaluate", "masked", *given, "--output", f"{place}/{output}", *more])


def test_tables_and_rows(place, capsys):
    training = f"deu_Latn={place}/deu_Latn.tsv", f"fra_Latn={place}/fra_Latn.tsv"
    assert evaluate(place, "--training-text", *training, "--low-resource", "fra_Latn") == 0
    assert "fra_Latn" in capsys.readouterr().out
    figures = json.loads((place / "scores" / "summary.json").read_text())
    for system in ("model", "unigram", "uniform"):
        assert figures[f"{system}/mean_low/nll"] == figures[f"{system}/fra_Latn/nll"]
        assert figures[f"{system}/mean_high/mrr"] == figures[f"{system}/deu_Latn/mrr"]
    assert figures["unigram/mean/nll"] < figures["uniform/mean/nll"]
    lines = parquet.read_table(place / "scores" / "lines.parquet").to_pylist()
    own = [row for row in lines if row["system"] == "model" and row["language"] == "fra_Latn"]
    assert len(own) == 2
    total = sum(row["tokens"] for row in own)
    assert figures["tokens/fra_Latn"] == total
    assert figures["unknown_share/fra_Latn"] == 0
    assert figures["model/fra_Latn/nll"] == pytest.approx(sum(row["nll"] for row in own) / total)


def test_the_share_of_unknown_tokens_is_said(place, capsys):
    german = place / "deu_Latn.tsv"
    kept = german.read_text(encoding="utf-8")
    german.write_text(kept + "x\t\u2603 \u2603 und\n", encoding="utf-8")
    try:
        assert evaluate(place, output="unknown") == 0
    finally:
        german.write_text(kept, encoding="utf-8")
    share = json.loads((place / "unknown" / "summary.json").read_text())["unknown_share/deu_Latn"]
    assert 0 < share < 0.1
    assert f"deu_Latn {share:.2%} of the tokens" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--low-resource", "khm_Khmr"), "--low-resource=khm_Khmr: no text of it"),
        (("--training-text", "somewhere.tsv"), "--training-text=somewhere.tsv: names no language"),
        (("--training-text", "deu_Latn={place}/blank.tsv"), "--training-text=.*blank.tsv: holds no text; give a file"),
        (("--training-text", "deu_Latn={place}/deu_Latn.tsv"), "--training-text: none of fra_Latn, which is scored"),
        (("--max-length", "100"), "--max-length=100: the model reads 64"),
        (("--max-length", "2"), "--max-length=2: special tokens alone take 2"),
    ],
)
def test_mistakes(place, more, said):
    (place / "blank.tsv").write_text("x\t \n", encoding="utf-8")
    with pytest.raises(UserError, match=said):
        evaluate(place, *(option.format(place=place) for option in more), output="none")
    assert not list(place.glob("none/*"))
    (place / "file").touch()
    with pytest.raises(UserError, match=r"--output=.*file: cannot be written"):
        evaluate(place, output="file")


def test_what_is_no_masked_lm(place):
    save_llama_tokenizer(place / "causal")
    (place / "causal" / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(UserError, match="llama has no masked language model"):
        evaluate(place, model="causal")
    with pytest.raises(UserError, match="the folder does not exist"):
        evaluate(place, model="nowhere")
