"""Answers of exported models: the same one by one and together, languages mixed, spans by choice; what does not fit is told."""

import json
import shutil

import pytest
import torch

from mtllm_ds import MTLLM
from mtllm_ds.checkpoint.export import FORMAT
from mtllm_ds.checkpoint.trained import read_trained
from mtllm_ds.data.text.task_encoding import encode_item
from mtllm_ds.errors import UserError
from mtllm_ds.inference import PlainItem
from tests.fixtures.exports import make_export
from tests.objectives.test_pooled_alignment import POOLED

LABELS = ["calc", "writer", "base"]
TOPICS = {"name": "topics", "type": "classification", "labels": LABELS}
PAIRS = {"name": "pairs", "type": "pair_classification", "labels": ["yes", "no"]}
CHOICE = {"name": "choice", "type": "multiple_choice", "labels": ["1", "2", "3"]}
TEXTS = [
    "The dialog sets the options.",
    "Select the cells.",
    "A chart shows the values of a table; the legend names it.",
]
READERS = ["stacked", "llm", "encoder"]


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """Export folders by (reader, task name)."""
    folder = tmp_path_factory.mktemp("predicting")
    return {
        (reader, task["name"]): make_export(folder / f"{reader}_{task['name']}", task, reader)
        for reader in READERS
        for task in (TOPICS, CHOICE, PAIRS)
        if reader == "stacked" or task is not PAIRS
    }


@pytest.mark.parametrize("reader", READERS)
def test_scores_are_the_heads_on_pooled_states(exports, reader):
    export = exports[reader, "topics"]
    model = MTLLM.from_pretrained(export)
    found = model.predict([PlainItem((text,)) for text in TEXTS], "eng_Latn", batch_size=2)
    head = read_trained(export).head
    for text, scores in zip(TEXTS, found, strict=True):
        ids = torch.tensor([model.ids((text,), "eng_Latn")])
        states = model.reader.states(ids, torch.ones_like(ids)).double()
        truth = states.mean(1) @ head["weight"].double().T + head["bias"].double()
        torch.testing.assert_close(scores.double(), truth[0], atol=1e-5, rtol=1e-4)
    assert model.classify(TEXTS, "eng_Latn") == [LABELS[int(row.argmax())] for row in found]
    torch.testing.assert_close(
        model.encode(TEXTS[:1], "eng_Latn")[0].double(), truth_vector(model, TEXTS[0]), atol=1e-5, rtol=1e-4
    )


def truth_vector(model, text):
    ids = torch.tensor([model.ids((text,), "eng_Latn")])
    return model.reader.states(ids, torch.ones_like(ids)).double().mean(1)[0]


def test_languages_may_be_mixed(exports):
    model = MTLLM.from_pretrained(exports["stacked", "topics"])
    languages = ["deu_Latn", "eng_Latn", "khm_Khmr"]
    mixed = model.encode(TEXTS, languages)
    for row, (text, code) in enumerate(zip(TEXTS, languages, strict=True)):
        torch.testing.assert_close(mixed[row], model.encode([text], code)[0], atol=1e-5, rtol=1e-5)
    assert model.classify(TEXTS, languages) == [
        model.classify([t], c)[0] for t, c in zip(TEXTS, languages, strict=True)
    ]
    assert set(languages) <= set(model.languages)
    with pytest.raises(UserError, match="2 languages for 3 texts"):
        model.encode(TEXTS, languages[:2])


@pytest.mark.parametrize("reader", READERS)
def test_a_choice_is_scored_over_its_own_tokens(exports, reader):
    export = exports[reader, "choice"]
    model = MTLLM.from_pretrained(export)
    items = [
        PlainItem(("The window shows the table.", "What is shown?"), ("the table", "the chart", "the table")),
        PlainItem(("A chart.", "What?"), ("chart", "none")),
    ]
    found = model.predict(items, "eng_Latn")
    head = read_trained(export).head
    for item, scores in zip(items, found, strict=True):
        assert scores.shape == (len(item.options),)
        encoded = encode_item(model._tokenizer, item.segments, item.options, "eng_Latn", 64)
        ids = torch.tensor([encoded.ids])
        states = model.reader.states(ids, torch.ones_like(ids)).double()[0]
        truth = torch.stack([states[s:e].mean(0) for s, e in encoded.choice_spans]) @ head["weight"].double()[0]
        torch.testing.assert_close(scores.double(), truth + head["bias"].double(), atol=1e-5, rtol=1e-4)
    assert model.choose("What?", ["chart", "none"], "eng_Latn", passage="A chart.") == int(found[1].argmax())
    assert model.choose("What?", ["chart", "none"], "eng_Latn") in (0, 1)


@pytest.mark.parametrize("pooling", ["last", "weighted_mean"])
def test_heads_read_texts_and_choices_as_they_were_pooled(tmp_path, pooling):
    items = {"topics": PlainItem((TEXTS[0],)), "choice": PlainItem(("A chart.", "What?"), ("the chart", "no chart"))}
    for task in (TOPICS, CHOICE):
        export = make_export(tmp_path / task["name"], task, "llm", bidirectional=False, pooling=pooling)
        model, item, head = MTLLM.from_pretrained(export), items[task["name"]], read_trained(export).head
        encoded = encode_item(model._tokenizer, item.segments, item.options, "eng_Latn", 64)
        ids = torch.tensor([encoded.ids])
        states = model.reader.states(ids, torch.ones_like(ids)).double()[0]
        spans = encoded.choice_spans or [(0, len(encoded.ids))]
        vectors = torch.stack([POOLED[pooling](states[start:end]) for start, end in spans])
        truth = vectors @ head["weight"].double().T + head["bias"].double()
        torch.testing.assert_close(model.predict([item], "eng_Latn")[0].double(), truth.flatten(), atol=1e-5, rtol=1e-4)


def test_pairs_are_classified(exports):
    model = MTLLM.from_pretrained(exports["stacked", "pairs"])
    (label,) = model.classify([("It rains.", "It is wet.")], "eng_Latn")
    assert label in PAIRS["labels"]
    with pytest.raises(UserError, match="1 segments, a pair classification has 2"):
        model.classify(["It rains."], "eng_Latn")


def test_what_does_not_fit_is_told(exports, tmp_path):
    topics, choice = (MTLLM.from_pretrained(exports["llm", name]) for name in ("topics", "choice"))
    with pytest.raises(UserError, match=r"use MTLLM\.choose"):
        choice.classify(TEXTS, "eng_Latn")
    with pytest.raises(UserError, match="4 options"):
        choice.choose("Who?", ["a", "b", "c", "d"], "eng_Latn")
    with pytest.raises(UserError, match="has options"):
        topics.predict([PlainItem(("a",), ("b", "c"))], "eng_Latn")
    with pytest.raises(UserError, match="ell_Grek"):
        topics.classify(TEXTS, "ell_Latn")
    with pytest.raises(UserError, match="not a stack"):
        topics.encode_with_encoder(TEXTS, "eng_Latn")
    with pytest.raises(UserError, match="has no head"):
        MTLLM.from_pretrained(make_export(tmp_path / "plain")).classify(TEXTS, "eng_Latn")
    assert topics.languages == ()


def test_an_llm_reads_the_same_in_any_language(exports):
    model = MTLLM.from_pretrained(exports["llm", "topics"])
    assert torch.equal(model.encode(TEXTS, "eng_Latn"), model.encode(TEXTS, "deu_Latn"))


def test_half_precision_is_asked_for_by_dtype(exports):
    export = exports["stacked", "topics"]
    half = MTLLM.from_pretrained(export, dtype=torch.bfloat16).encode(TEXTS, "eng_Latn")
    whole = MTLLM.from_pretrained(export).encode(TEXTS, "eng_Latn")
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, whole, atol=0.1, rtol=0.1)
    assert not torch.equal(half, whole)


def test_run_and_export_are_the_same_model_and_the_first_format_is_read(exports, tmp_path):
    export = exports["stacked", "topics"]
    assert read_trained(export).fingerprint == read_trained(export.parent / "run").fingerprint
    assert read_trained(export).fingerprint != read_trained(exports["llm", "topics"]).fingerprint
    plain = make_export(tmp_path / "plain")
    config = json.loads((plain / "config.json").read_text())
    old = tmp_path / "old"
    shutil.copytree(plain, old)
    first = {k: v for k, v in config.items() if k not in ("reader", "task")} | {"format": 1}
    first["connector"] = {k: first["connector"][k] for k in ("type", "hidden_size", "init")}
    (old / "config.json").write_text(json.dumps(first))
    vectors = [MTLLM.from_pretrained(folder).encode(TEXTS, "deu_Latn") for folder in (plain, old)]
    assert torch.equal(*vectors)
    (old / "config.json").write_text(json.dumps(config | {"format": FORMAT + 1}))
    with pytest.raises(UserError, match=f"format {FORMAT + 1}"):
        MTLLM.from_pretrained(old)
    with pytest.raises(UserError, match="neither a run"):
        read_trained(tmp_path)


def test_a_card_says_what_the_head_answers(exports):
    card = (exports["llm", "topics"] / "README.md").read_text()
    assert "`topics` (classification): calc, writer, base" in card
    assert "model.classify(" in card
    assert "- encoder" not in card
    assert "model.choose(" in (exports["encoder", "choice"] / "README.md").read_text()
