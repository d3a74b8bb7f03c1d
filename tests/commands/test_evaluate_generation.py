"""`mtllm-ds evaluate generation` from the command line: what it leaves, beside classification too; mistakes are one line."""

import csv
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from mtllm_ds.cluster.launch import join_cluster
from mtllm_ds.commands import run_command
from mtllm_ds.errors import UserError
from mtllm_ds.evaluation.answers.predictions import write_predictions
from mtllm_ds.evaluation.generation.evaluation import GenerationEvaluation
from tests.distributed.ranks import RankError, ranks
from tests.evaluation.answers.test_predictions import some
from tests.fixtures.exports import make_export
from tests.fixtures.models import save_llama, save_mt_model

ENGLISH = ["Print a <b>page</b>", "Open the file", "Close it"]
FOREIGN = {"deu_Latn": ["Drucken", "Die Datei", "Ende"], "fra_Latn": ["Imprimer", "Le fichier", "Fermer"]}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluate_generation")
    bases = {"encoder": save_mt_model(folder / "mt"), "llm": save_llama(folder / "llm")}
    (folder / "stack").mkdir()
    rows = [
        {"id": number, "language": code, "prompt": text, "teacher_prompt": english}
        for code, texts in FOREIGN.items()
        for number, (text, english) in enumerate(zip(texts, ENGLISH, strict=True))
    ]
    (folder / "heldout.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    export = make_export(folder / "stack", bases=bases, bidirectional=False)
    return SimpleNamespace(folder=folder, stack=export, **bases)


def evaluate(place, *more, model=None, output="found", source="heldout.jsonl"):
    given = ["--model", model or place.stack, "--input", f"{place.folder}/{source}", "--max-new-tokens", 4]
    fixed = ["--precision", "fp32", "--no-check-language", "--output", place.folder / output]
    return run_command(["evaluate", "generation", *map(str, (*given, *fixed, *more))])


def test_tables_figures_and_examples(place, capsys, monkeypatch):
    assert evaluate(place) == 0
    assert "deu_Latn" in capsys.readouterr().out
    figures = json.loads((place.folder / "found" / "summary.json").read_text())
    rows = list(csv.DictReader((place.folder / "found" / "languages.csv").read_text().splitlines()))
    assert {(row["language"], row["reading"]) for row in rows} >= {("eng_Latn", "model"), ("fra_Latn", "none")}
    for row in rows:
        assert float(row["nll"]) == figures[f"{row['language']}/{row['reading']}/nll"]
        assert (row["cosine"] != "") == (row["reading"] in ("model", "llm"))  # a stack's own encoder tells
    assert figures["eng_Latn/llm/kl"] == pytest.approx(0, abs=1e-6)  # who reads the English original is the teacher
    assert figures["eng_Latn/model/kl"] == figures["retention/kl"] > 0
    assert figures["mean/model/nll"] == pytest.approx(
        (figures["deu_Latn/model/nll"] + figures["fra_Latn/model/nll"]) / 2
    )
    page = (place.folder / "found" / "report.html").read_text()
    assert "Print a &lt;b&gt;page&lt;/b&gt;" in page
    assert "Answers side by side" in page
    answered = json.loads((place.folder / "found" / "found" / "deu_Latn.jsonl").read_text().splitlines()[0])
    assert answered["reference"] == answered["response"]  # a stack answers in English
    monkeypatch.setattr(GenerationEvaluation, "rows", None)  # nothing is asked again
    assert evaluate(place) == 0
    with pytest.raises(UserError, match=r"its \w+ were made with another answers_in .*; choose"):
        evaluate(place, "--answers-in", "prompt")


def test_a_language_model_as_it_is_beside_the_one_before(place):
    assert evaluate(place, "--untouched", place.llm, model=place.llm, output="same") == 0
    figures = json.loads((place.folder / "same" / "summary.json").read_text())
    assert figures["retention/nll_change_percent"] == pytest.approx(0, abs=1e-4)
    assert figures["deu_Latn/model/nll"] == figures["deu_Latn/llm/nll"]
    assert "deu_Latn/model/chrf" not in figures  # German answers, and none of the teacher's
    assert "deu_Latn/model/cosine" not in figures


def test_other_weights_of_the_sentence_encoder_are_another_evaluation(place, tmp_path):
    named = save_mt_model(tmp_path / "told_by")
    assert evaluate(place, "--sentence-encoder", named, output="told") == 0
    assert evaluate(place, "--sentence-encoder", named, output="told") == 0
    save_mt_model(tmp_path / "told_by", seed=9)
    with pytest.raises(UserError, match=r"were made with another sentence_encoder_weights \(.*sha256.*; choose"):
        evaluate(place, "--sentence-encoder", named, output="told")


def evaluate_on_rank(model, source, output):
    """On each rank of a pool."""
    join_cluster()
    place = SimpleNamespace(folder=Path(output).parent, stack=model)
    return evaluate(place, source=source, output=Path(output).name)


def test_ranks_share_languages_and_a_mistake_stops_all(place, tmp_path):
    shutil.copy(place.folder / "heldout.jsonl", tmp_path)
    assert ranks(2).run(evaluate_on_rank, place.stack, "heldout.jsonl", tmp_path / "two") == [0, 0]
    assert evaluate(place, output="one") == 0
    two, one = (
        json.loads((folder / "summary.json").read_text()) for folder in (tmp_path / "two", place.folder / "one")
    )
    assert two == pytest.approx(one, abs=1e-5, nan_ok=True)
    with pytest.raises(RankError, match=r"UserError: --input=.*nowhere\.jsonl: no file there") as told:
        ranks(2).run(evaluate_on_rank, place.stack, "nowhere.jsonl", tmp_path / "none")
    assert [error[0] for error in told.value.errors] == ["UserError", "PeerFailedError"]


def test_answers_stand_beside_classification(place, tmp_path):
    evaluate(place)
    write_predictions(tmp_path / "predictions.parquet", some())
    tables = ["--predictions", tmp_path / "predictions.parquet", "--generation", place.folder / "found"]
    assert run_command(["evaluate", "tables", *map(str, (*tables, "--output", tmp_path / "all"))]) == 0
    page = (tmp_path / "all" / "report.html").read_text()
    assert "macro-F1" in page
    assert "Answers side by side" in page
    with pytest.raises(UserError, match=r"nowhere.*: holds nothing that `evaluate generation` found"):
        run_command(["evaluate", "tables", *map(str, (*tables[:-1], tmp_path / "nowhere", "--output", tmp_path))])


@pytest.mark.parametrize(
    ("more", "options", "said"),
    [
        ((), {"source": "nowhere.jsonl"}, "--input=.*nowhere.jsonl: no file there"),
        (("--answers-in", "ell_Latn"), {}, "did you mean 'ell_Grek'"),
        ((), {"model": "llm"}, "--untouched is missing: this model's LLM has no LoRA"),
        (("--untouched", "./nowhere"), {}, r"model=./nowhere: no such folder"),
        (("--untouched", "LLM", "--encoder-prefix", "x"), {"model": "llm"}, "--encoder-prefix=x: has no effect without"),
        (("--sentence-encoder", "MT", "--answers-in", "dyu_Latn"), {}, "has no tag of dyu_Latn; name another encoder"),
        (("--max-new-tokens", "500"), {}, r"heldout.jsonl, line \d: .*max_new_tokens=500 are more than"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(place, more, options, said):
    names = {"LLM": place.llm, "MT": place.encoder}
    model = place.llm if options.get("model") == "llm" else None
    with pytest.raises(UserError, match=said) as told:
        evaluate(place, *(names.get(word, word) for word in more), **{**options, "model": model}, output="none")
    assert "\n" not in str(told.value)
    assert not list(place.folder.glob("none/found/*.jsonl"))
