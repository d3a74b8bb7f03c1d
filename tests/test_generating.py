"""`MTLLM.generate`: what is written equals a loop by hand; batches, languages, stops and streams; mistakes are one line."""

import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from mtllm_ds import MTLLM
from mtllm_ds.data.text.chat import ChatSettings, DialogueTokenizer
from mtllm_ds.errors import UserError
from mtllm_ds.inference import speakers
from mtllm_ds.models.lm_head import load_output_head
from mtllm_ds.models.readers import LLMReader
from tests.fixtures.exports import make_export
from tests.fixtures.models import save_llama, save_mt_model

TEMPLATE = (
    "{% for m in messages %}<bos>{{ m['role'] }}: {{ m['content'] }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}<bos>assistant:{% endif %}"
)
PROMPTS = ["The dialog sets the options.", "A chart", "Select the cells that hold the formula, then choose"]
NEW = 8


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bases")
    return {"encoder": save_mt_model(folder / "mt"), "llm": save_llama(folder / "llm")}


@pytest.fixture(scope="module")
def stack(bases, tmp_path_factory):
    return make_export(tmp_path_factory.mktemp("stack"), bases=bases, bidirectional=False)


@pytest.fixture(scope="module")
def llm(bases, tmp_path_factory):
    task = {"name": "x", "type": "classification", "labels": ["a", "b"]}
    return make_export(tmp_path_factory.mktemp("llm"), task, reader="llm", bases=bases, bidirectional=False)


@torch.no_grad()
def by_hand(model, prompt, lang):
    """Greedy: all states anew for each token, the head by itself. Returns text and ids."""
    reader, tokenizer = model.reader, model._tokenizers["llm"]
    head = load_output_head(model._speakers._llm, reader, torch.float32)
    ids = torch.tensor([model._tokenizer([prompt], lang)])
    rows = reader.embeddings(ids, torch.ones_like(ids))
    body = reader.llm.base_model.model
    written = []
    while len(written) < NEW:
        token = int(head(body(inputs_embeds=rows).last_hidden_state[0, -1]).argmax())
        if token == 1:
            break
        written.append(token)
        rows = torch.cat([rows, body.get_input_embeddings()(torch.tensor([[token]]))], 1)
    return tokenizer.decode(written), written


@pytest.mark.parametrize(("kind", "lang"), [("stack", "deu_Latn"), ("llm", None)])
def test_greedy_text_is_that_of_a_loop_by_hand(kind, lang, request):
    model = MTLLM.from_pretrained(request.getfixturevalue(kind))
    expected = [by_hand(model, prompt, lang)[0] for prompt in PROMPTS]
    assert model.generate(PROMPTS, lang, max_new_tokens=NEW, batch_size=2) == expected
    assert model.generate(PROMPTS[1:2], lang, max_new_tokens=NEW) == expected[1:2]
    assert model.generate([], lang) == []
    assert len(set(expected)) == 3


@torch.no_grad()
def told_by_hand(model, rows):
    """Log-probabilities (n, V) behind prompts' embeddings (1, S, D), each response alone."""
    head, body = load_output_head(model._speakers._llm, model.reader, torch.float32), model.reader.llm.base_model.model
    found = []
    for read, response in rows:
        whole = torch.cat([read, body.get_input_embeddings()(torch.tensor([response]))], 1)
        states = body(inputs_embeds=whole).last_hidden_state[0, read.shape[1] - 1 : -1]
        found.append(head(states).double().log_softmax(-1))
    return found


def test_given_responses_are_told_as_each_alone_by_hand(stack):
    model = MTLLM.from_pretrained(stack)
    speaker = model.speaker(plain=False)
    prompts, responses = speaker.read(PROMPTS, "deu_Latn"), [[5, 9, 6], [7], [8, 8, 3, 4, 11]]
    with torch.no_grad():
        heard = [
            model.reader.embeddings(torch.tensor([one.encoder]), torch.ones(1, len(one), dtype=torch.long))
            for one in prompts
        ]
    truth = told_by_hand(model, zip(heard, responses, strict=True))
    states = speaker.states_before(prompts, responses, batch_size=2)
    for own, expected in zip(states, truth, strict=True):
        torch.testing.assert_close(speaker.log_probs(own).double(), expected, atol=1e-5, rtol=0)
    assert speaker.states_before([], []) == []


@torch.no_grad()
def test_given_responses_are_told_by_the_plain_llm_as_before_training(stack, bases):
    from transformers import AutoModelForCausalLM

    whole = AutoModelForCausalLM.from_pretrained(bases["llm"]).eval()
    speaker = MTLLM.from_pretrained(stack).speaker(plain=True)
    (prompt,), response = speaker.read(PROMPTS[:1], None), [5, 9, 6, 7]
    truth = whole(torch.tensor([prompt.llm + response])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    (states,) = speaker.states_before([prompt], [response])
    torch.testing.assert_close(speaker.log_probs(states), truth, atol=1e-5, rtol=0)


def test_the_plain_llm_writes_as_before_training(stack, llm, bases):
    from transformers import AutoModelForCausalLM

    whole = AutoModelForCausalLM.from_pretrained(bases["llm"]).eval()
    for folder in (stack, llm):
        model = MTLLM.from_pretrained(folder)
        tokenizer = model._tokenizers["llm"]
        ids = torch.tensor([tokenizer([PROMPTS[0]], None)])
        truth = whole.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW)[0, ids.shape[1] :]
        expected = tokenizer.decode(truth.tolist())
        assert model.generate_with_llm(PROMPTS[:1], max_new_tokens=NEW) == [expected]
        assert model.generate(PROMPTS[:1], "eng_Latn", max_new_tokens=NEW) != [expected]


def test_languages_may_be_mixed_and_beams_are_transformers_own(stack):
    model = MTLLM.from_pretrained(stack)
    alone = [model.generate(["A chart"], code, max_new_tokens=NEW)[0] for code in ("deu_Latn", "khm_Khmr")]
    assert alone[0] != alone[1]
    assert model.generate(["A chart"] * 2, ["deu_Latn", "khm_Khmr"], max_new_tokens=NEW) == alone
    assert model.generate(["A chart"], "deu_Latn", max_new_tokens=NEW, num_beams=3) != alone[:1]


def test_what_is_drawn_depends_on_the_seed_and_the_place_alone(stack):
    model = MTLLM.from_pretrained(stack)
    options = {"max_new_tokens": NEW, "do_sample": True, "top_p": 0.95, "temperature": 1.5}
    first = model.generate(PROMPTS, "deu_Latn", seed=3, **options)
    assert model.generate(PROMPTS, "deu_Latn", seed=3, batch_size=1, **options) == first
    assert model.generate(PROMPTS, "deu_Latn", seed=4, **options) != first
    torch.manual_seed(0)
    drawn = [model.generate(PROMPTS, "deu_Latn", **options) for _ in range(2)]
    torch.manual_seed(0)
    assert drawn[0] != drawn[1]
    assert model.generate(PROMPTS, "deu_Latn", **options) == drawn[0]
    copied = pickle.loads(pickle.dumps(model))
    assert copied.generate(PROMPTS, "deu_Latn", seed=3, **options) == first


def test_pieces_of_a_stream_are_the_whole_text(stack):
    model = MTLLM.from_pretrained(stack)
    options = {"max_new_tokens": 24, "do_sample": True, "seed": 1}
    pieces = list(model.generate(PROMPTS[:1], "deu_Latn", stream=True, **options))
    assert len(pieces) > 3
    assert "".join(pieces) == model.generate(PROMPTS[:1], "deu_Latn", **options)[0]
    listening = model.generate(PROMPTS[:1], "deu_Latn", stream=True, **options)
    assert next(listening) == pieces[0]
    listening.close()  # the thread that writes is gone with it
    with pytest.raises(UserError, match="got 2 prompts; give one"):
        model.generate(PROMPTS[:2], "deu_Latn", stream=True)


def test_writing_ends_with_a_stop_string(stack):
    model = MTLLM.from_pretrained(stack)
    whole = model.generate(PROMPTS, "deu_Latn", max_new_tokens=24)
    stop = whole[0][3:5]
    found = model.generate(PROMPTS, "deu_Latn", max_new_tokens=24, stop_strings=[stop])
    for text, stopped in zip(whole, found, strict=True):
        assert text.startswith(stopped)
        assert stop in stopped or stopped == text
        assert stopped.count(stop) <= 1
    assert found[0] != whole[0]
    assert (
        "".join(model.generate(PROMPTS[:1], "deu_Latn", max_new_tokens=24, stop_strings=[stop], stream=True))
        == found[0]
    )


def test_no_token_ends_what_is_written_where_none_is_asked_for(stack):
    model = MTLLM.from_pretrained(stack)
    model.generate(["a"], "deu_Latn", max_new_tokens=1)
    writer = model.speaker(plain=False)._writer
    free = [model.generate([prompt], "deu_Latn", max_new_tokens=NEW) for prompt in PROMPTS]
    first = [response.ids[1] for response in _written(model, max_new_tokens=NEW, eos_token_id=None)]
    writer.model.generation_config.eos_token_id = first  # as if the LLM's own settings ended its texts there
    assert all(len(response.ids) <= 1 for response in _written(model, max_new_tokens=NEW))
    assert [len(response.ids) for response in _written(model, max_new_tokens=NEW, eos_token_id=None)] == [NEW] * 3
    assert all(response.is_cut for response in _written(model, max_new_tokens=NEW, eos_token_id=None))
    stop = free[0][0][2:4]
    options = {"max_new_tokens": NEW, "eos_token_id": None, "stop_strings": [stop]}
    together = model.generate(PROMPTS, "deu_Latn", **options)
    assert together == [model.generate([prompt], "deu_Latn", **options)[0] for prompt in PROMPTS]
    assert together[0] != free[0][0]


def _written(model, **options):
    """Responses to the prompts, as the trained model's writer gives them."""
    speaker, found = model.speaker(plain=False), []
    write = speaker._writer.write
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speaker._writer, "write", lambda *given: found.extend(write(*given)) or found)
        model.generate(PROMPTS, "deu_Latn", **options)
    return found


def test_messages_are_read_by_template_and_by_the_encoder_without_it(stack, llm):
    asked = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "A chart"}]
    spoken = MTLLM.from_pretrained(llm)
    tokenizer = spoken._tokenizers["llm"]
    chat = DialogueTokenizer(tokenizer, ChatSettings(template=TEMPLATE))
    head = load_output_head(spoken._speakers._llm, spoken.reader, torch.float32)
    ids = chat.prompt_ids(asked)
    with torch.no_grad():
        first = int(
            head(spoken.reader.states(torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.long)))[0, -1].argmax()
        )
    assert spoken.generate([asked], chat_template=TEMPLATE, max_new_tokens=1) == [tokenizer.decode([first])]
    stacked = MTLLM.from_pretrained(stack)
    assert stacked.generate([asked], "deu_Latn", max_new_tokens=NEW) == stacked.generate(
        ["A chart"], "deu_Latn", max_new_tokens=NEW
    )
    with pytest.raises(
        UserError, match=r"^prompts\[0\]: messages need a chat template, .* give chat_template, or a text$"
    ):
        spoken.generate([asked])
    with pytest.raises(UserError, match=r"^prompts\[0\]: spells a special token"):
        spoken.generate([[{"role": "user", "content": "a<eos>b"}]], chat_template=TEMPLATE)


def test_threads_do_not_meet(stack):
    model = MTLLM.from_pretrained(stack)
    asked = [
        lambda: model.generate(PROMPTS, "deu_Latn", max_new_tokens=NEW),
        lambda: model.generate_with_llm(PROMPTS, max_new_tokens=NEW),
        lambda: model.encode(PROMPTS, "deu_Latn").tolist(),
    ]
    alone = [ask() for ask in asked]
    with ThreadPoolExecutor(3) as pool:
        found = [future.result() for future in [pool.submit(asked[turn % 3]) for turn in range(9)]]
    assert all(found[turn] == alone[turn % 3] for turn in range(9) if turn % 3 < 2)
    assert all(torch.allclose(torch.tensor(found[turn]), torch.tensor(alone[2]), atol=1e-6) for turn in (2, 5, 8))


@pytest.mark.parametrize(
    ("prompts", "lang", "options", "line"),
    [
        (["a", " "], "deu_Latn", {}, r"^prompts\[1\]: empty; give it text, or leave it out$"),
        (["word " * 100], "deu_Latn", {}, r"^prompts\[0\]: \d+ tokens, the encoder takes 64 \(its max_length\); shorten it$"),
        (["a"], "deu_Latn", {"max_new_tokens": 500}, r"more than the LLM's 128 positions; shorten it, or lower"),
        (["a"], "ell_Latn", {}, "ell_Grek"),
        (["a"], None, {}, "needs a language tag"),
        (["a"], ["deu_Latn"] * 2, {}, "^lang: 2 languages for 1 prompts; give one, or one for each prompt$"),
        ("a", "deu_Latn", {}, "put it in a list$"),
        ([{"role": "user", "content": "a"}], "deu_Latn", {}, "put it in a list$"),
        ([[{"role": "assistant", "content": "a"}]], "deu_Latn", {}, "ends with the assistant"),
        ([3], "deu_Latn", {}, r"^prompts\[0\]: neither a text nor a list of messages"),
        (["\ud800"], "deu_Latn", {}, "half a character"),
        (["a"], "deu_Latn", {"temprature": 1}, "no such option; the nearest is 'temperature'$"),
        (["a"], "deu_Latn", {"temperature": 0.5}, "no effect without do_sample=True"),
        (["a"], "deu_Latn", {"do_sample": True, "temperature": -1}, "^generate: .*temperature"),
        (["a"], "deu_Latn", {"do_sample": True, "num_beams": 2}, "beams are not drawn"),
        (["a"], "deu_Latn", {"do_sample": True, "typical_p": 0.5}, "is not known to this sampler"),
        (["a"], "deu_Latn", {"max_length": 9}, "^max_length: is not for the caller"),
        (["a"], "deu_Latn", {"max_new_tokens": 0}, "^max_new_tokens=0: not a whole number"),
        (["a"], "deu_Latn", {"batch_size": 0}, "^batch_size=0: not a whole number"),
        (["a"], "deu_Latn", {"seed": -1}, "^seed=-1: not a whole number"),
        (["a"], "deu_Latn", {"num_beams": 0}, "^num_beams=0: not a whole number"),
        (["a"], "deu_Latn", {"repetition_penalty": -1.0}, "^generate: .*penalty"),
        (["a"], "deu_Latn", {"eos_token_id": []}, r"^eos_token_id=\[\]: not a token id or several; leave it out"),
        (["a"], "deu_Latn", {"eos_token_id": "x"}, "^eos_token_id=x: not a token id"),
        (["a"], "deu_Latn", {"eos_token_id": [-1]}, r"^eos_token_id=\[-1\]: not a token id"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(prompts, lang, options, line, stack):
    model = MTLLM.from_pretrained(stack)
    with pytest.raises(UserError, match=line) as told:
        model.generate(prompts, lang, **options)
    assert "\n" not in str(told.value)


def test_models_that_cannot_write_are_refused(bases, tmp_path):
    both_ways = MTLLM.from_pretrained(make_export(tmp_path, bases=bases))
    with pytest.raises(
        UserError, match=r"^model\.llm\.bidirectional=true: .* attends both ways here, so it cannot write"
    ):
        both_ways.generate(["a"], "deu_Latn")
    task = {"name": "x", "type": "classification", "labels": ["a", "b"]}
    (tmp_path / "alone").mkdir()
    encoder = MTLLM.from_pretrained(make_export(tmp_path / "alone", task, reader="encoder", bases=bases))
    with pytest.raises(UserError, match="EncoderReader without a language model; ask one"):
        encoder.generate(["a"], "deu_Latn")


def test_a_model_whose_own_weights_trained_holds_no_plain_llm(llm):
    adapted = MTLLM.from_pretrained(llm)
    expected = adapted.generate(PROMPTS, max_new_tokens=NEW)
    reader = LLMReader(adapted.reader.llm.merge_and_unload())
    model = MTLLM(reader, adapted._tokenizers, adapted.device, llm=adapted._speakers._llm)
    assert model.generate(PROMPTS, max_new_tokens=NEW) == expected
    with pytest.raises(UserError, match=r"^generate_with_llm: this model.s LLM has no LoRA .* load that alone$"):
        model.generate_with_llm(PROMPTS)


def test_the_output_head_is_read_once(stack, monkeypatch):
    model, read = MTLLM.from_pretrained(stack), []
    monkeypatch.setattr(speakers, "load_output_head", lambda *given: read.append(1) or load_output_head(*given))
    for ask in (model.generate_with_llm, model.generate, model.generate):
        ask(PROMPTS[:1], **({} if ask == model.generate_with_llm else {"lang": "deu_Latn"}), max_new_tokens=1)
    assert read == [1]
    heads = [speaker._model.get_output_embeddings().weight for speaker in model._speakers._made.values()]
    assert heads[0] is heads[1]
    assert pickle.loads(pickle.dumps(model)).generate(PROMPTS[:1], "deu_Latn", max_new_tokens=1)


def test_a_run_speaks_as_its_export(stack):
    run = stack.parent / "run"
    spoken = [MTLLM.from_pretrained(place).generate(PROMPTS, "deu_Latn", max_new_tokens=NEW) for place in (run, stack)]
    assert spoken[0] == spoken[1]
