"""NLL and KL equal transformers' own in float64; responses that are not given are transformers' greedy ones; figures by hand."""

import gc
import weakref

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from mtllm_ds import MTLLM
from mtllm_ds.errors import UserError
from mtllm_ds.evaluation.generation.evaluation import GenerationEvaluation, HowAnswered
from mtllm_ds.evaluation.generation.found import Found, flat_figures, retention
from mtllm_ds.evaluation.generation.heldout import Heldout
from mtllm_ds.evaluation.report.generation_sections import sections_of
from mtllm_ds.transfer_sets.sdrrl.filters import LanguageCheck
from tests.evaluation.generation.test_texts import ENGLISH, GERMAN
from tests.fixtures.exports import make_export
from tests.fixtures.models import save_llama

NEW = 5
PROMPTS = [("Drucken", "Print it"), ("Ein Diagramm", "A chart"), ("Die Zellen", "Select the cells")]


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    return {"llm": save_llama(tmp_path_factory.mktemp("bases") / "llm")}


@pytest.fixture(scope="module")
def export(bases, tmp_path_factory):
    task = {"name": "x", "type": "classification", "labels": ["a", "b"]}
    return make_export(tmp_path_factory.mktemp("adapted"), task, reader="llm", bases=bases, bidirectional=False)


@pytest.fixture(scope="module")
def model(export):
    return MTLLM.from_pretrained(export)


def evaluation(model, **changes):
    how = {"max_new_tokens": NEW, "answers_in": None, "batch_size": 2, "check": None, "encode": None, **changes}
    return GenerationEvaluation(model.speaker(plain=False), model.speaker(plain=True), HowAnswered(**how))


def items(**more):
    return [
        Heldout(id=str(number), group=str(number), language="deu_Latn", prompt=prompt, teacher_prompt=english, **more)
        for number, (prompt, english) in enumerate(PROMPTS)
    ]


def truths(bases, export):
    """The untouched and the adapted model, by transformers and PEFT alone, in float64."""
    untouched, adapted = (AutoModelForCausalLM.from_pretrained(bases["llm"], dtype=torch.float64) for _ in range(2))
    PeftModel.from_pretrained(adapted.model, export / "adapter")  # in place
    return {"untouched": untouched.eval(), "model": adapted.eval()}


@torch.no_grad()
def told(truth, prompt, response):
    logits = truth(torch.tensor([[*prompt, *response]])).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1)


def test_nll_and_kl_are_transformers_own_in_float64(model, bases, export):
    tokenizer = model.speaker(plain=True)._tokenizers["llm"]
    response = "Choose the printer"
    ids, truth = tokenizer.tokenize([response])[0].ids, truths(bases, export)
    rows = evaluation(model).rows(items(response=response))
    for row, (prompt, english) in zip(rows, PROMPTS, strict=True):
        own, foreign = tokenizer([english], None), tokenizer([prompt], None)
        teacher = told(truth["untouched"], own, ids)
        for reading, who, read in (
            ("model", "model", foreign),
            ("llm", "untouched", foreign),
            ("english", "untouched", own),
        ):
            log_probs = told(truth[who], read, ids)
            assert row["nll"][reading] == pytest.approx(-log_probs[range(len(ids)), ids].sum().item(), abs=1e-4)
            kl = (teacher.exp() * (teacher - log_probs)).sum().item()
            assert row["kl"][reading] == pytest.approx(kl, abs=1e-4)
        nothing = told(truth["untouched"], [0], ids)
        assert row["nll"]["none"] == pytest.approx(-nothing[range(len(ids)), ids].sum().item(), abs=1e-4)
        assert row["num_tokens"] == len(ids)
        assert row["reference"] == response
    shuffled = told(truth["model"], tokenizer([PROMPTS[1][0]], None), ids)  # of the first prompt
    assert rows[0]["nll"]["shuffled"] == pytest.approx(-shuffled[range(len(ids)), ids].sum().item(), abs=1e-4)
    assert rows[0]["kl"]["model"] > 0.01


def test_without_a_response_it_is_the_untouched_models_greedy_answer_written_once(model, bases, monkeypatch):
    whole = AutoModelForCausalLM.from_pretrained(bases["llm"]).eval()
    found, asked = evaluation(model), []
    greedy = found._greedy
    monkeypatch.setattr(found, "_greedy", lambda who, prompts: asked.append(len(prompts)) or greedy(who, prompts))
    rows = found.rows(items())
    tokenizer = model.speaker(plain=True)._tokenizers["llm"]
    for row, (_, english) in zip(rows, PROMPTS, strict=True):
        ids = torch.tensor([tokenizer([english], None)])
        truth = whole.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, do_sample=False)
        assert row["response"] == tokenizer.decode(truth[0, ids.shape[1] :].tolist()).strip()
        assert row["reference"] is None  # English, where German answers are asked for
    assert asked == [3, 3, 3]
    again = found.rows(items())
    assert asked[3:] == [0, 3, 3]
    assert again == rows
    assert [row["reference"] for row in evaluation(model, answers_in="eng_Latn").rows(items())] == [
        row["response"] for row in rows
    ]


def test_no_states_outlive_their_language(model, monkeypatch):
    """At a thousand prompts of an 8B model they are gigabytes a language; the teacher reads once for each."""
    found, alive = evaluation(model), []
    read = found._untouched.states_before

    def states_before(*given):
        states = read(*given)
        alive.extend(weakref.ref(one) for one in states)
        return states

    monkeypatch.setattr(found._untouched, "states_before", states_before)
    first = found.rows(items(response="Choose"))
    gc.collect()
    assert [one() for one in alive] == [None] * 9  # the prompt itself, no prompt, the teacher's
    assert found.rows(items(response="Choose")) == first


def test_figures_are_those_counted_by_hand(model):
    row = {"language": "deu_Latn", "reference": GERMAN}
    rows = [row | {"answers": {"model": GERMAN, "llm": ENGLISH}}, row | {"answers": {"model": "", "llm": ENGLISH}}]
    encode = {GERMAN: (1.0, 0.0), ENGLISH: (0.0, 1.0), "-": (0.0, 1.0)}
    found = evaluation(
        model, check=LanguageCheck(), encode=lambda texts, language: np.array([encode[text] for text in texts])
    ).figures(rows)
    assert (found["model"]["fidelity"], found["llm"]["fidelity"]) == (0.5, 0.0)
    assert (found["model"]["cosine"], found["llm"]["cosine"]) == (0.5, 0.0)
    assert found["model"]["empty"] == 0.5
    english = evaluation(model, check=LanguageCheck(), answers_in="eng_Latn").figures(rows)
    assert (english["model"]["fidelity"], english["llm"]["fidelity"]) == (0.0, 1.0)


def test_what_is_kept_of_english_is_counted_by_hand():
    def row(group, num_tokens, model, untouched, kl):
        nll = {"model": model, "llm": untouched, "english": untouched}
        return {"group": group, "num_tokens": num_tokens, "nll": nll, "kl": {"model": kl, "llm": 0.0, "english": 0.0}}

    rows = [row("a", 4, 6.0, 4.0, 1.0), row("b", 6, 5.0, 6.0, 2.0)]
    english = Found(rows, {"model": {"chrf": 3.0}})
    assert retention(english) == pytest.approx(
        {"nll": 1.1, "nll_untouched": 1.0, "nll_change_percent": 10.0, "kl": 0.3}
    )
    flat = flat_figures(
        {"eng_Latn": english, "deu_Latn": english, "fra_Latn": Found(rows[:1], {"model": {"chrf": 5.0}})}
    )
    assert flat["mean/model/nll"] == pytest.approx((1.1 + 1.5) / 2)
    assert flat["mean/model/chrf"] == 4.0
    assert flat["deu_Latn/model-llm/nll"] == pytest.approx(0.1)
    assert flat["retention/kl"] == pytest.approx(0.3)


def test_no_room_for_a_response_is_one_line(model):
    fixed = {
        "id": "a",
        "group": "a",
        "language": "deu_Latn",
        "prompt": "a",
        "teacher_prompt": "a",
        "place": "f, line 3",
    }
    said = r"^f, line 3: \d+ tokens with its response are more than the LLM's 128 positions"
    with pytest.raises(UserError, match=said):
        evaluation(model).rows([Heldout(**fixed, response="word " * 200)])


def test_one_group_has_no_other_prompt(model):
    rows = evaluation(model).rows([Heldout(**{**vars(item), "group": "same"}) for item in items(response="Choose")])
    assert "shuffled" not in rows[0]["nll"]
    found = {"deu_Latn": Found(rows, {"model": {"words": 1.0}, "llm": {"words": 2.0}})}
    assert "deu_Latn/shuffled/nll" not in flat_figures(found)
    page = {section.heading: section for section in sections_of(found, num_examples=2)}
    (row,) = page["Nats per token of the response"].rows
    assert row[3] == ""
    assert row[2] == f"{found['deu_Latn'].mean('model', 'nll'):.3f}"
