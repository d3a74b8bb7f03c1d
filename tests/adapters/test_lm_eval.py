"""The harness's own figures of local tasks: those that transformers' model gives, and those of a loop by hand over a stack."""

import json

import pytest
import torch
import yaml
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from mtllm_ds import MTLLM
from mtllm_ds.errors import UserError
from mtllm_ds.models.lm_head import load_output_head
from mtllm_ds.transfer_sets.merged_llm import write_merged
from tests.fixtures.dialogues import TEMPLATE
from tests.fixtures.exports import make_export
from tests.fixtures.models import save_bert, save_llama, save_mt_model
from tests.fixtures.tokenizers import TEXT

lm_eval = pytest.importorskip("lm_eval", reason="the extra lm-eval is not installed")
from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.models.huggingface import HFLM  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402

from mtllm_ds.adapters import lm_eval as adapter  # noqa: E402

QUESTIONS = [
    {"question": "A chart shows the", "choices": ["values", "cells", "document and the data"], "answer": 0},
    {"question": "Select the cells that hold the", "choices": ["formula", "axis", "units"], "answer": 2},
    {"question": "The legend names", "choices": ["series", "dialog", "it"], "answer": 1},
]
NEW = 8
CHOOSE = {
    "task": "ours_choose_deu_Latn", "output_type": "multiple_choice", "doc_to_text": "Question: {{question}}\nAnswer:",
    "doc_to_choice": "{{choices}}", "doc_to_target": "answer",
    "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}, {"metric": "acc_mutual_info"}],
}  # fmt: skip
WRITE = {
    "task": "ours_write_deu_Latn", "output_type": "generate_until", "doc_to_text": "{{question}}",
    "doc_to_target": "{{choices[answer]}}", "generation_kwargs": {"until": [], "max_gen_toks": NEW, "do_sample": False},
    "metric_list": [{"metric": "exact_match"}],
}  # fmt: skip
ROLL = {
    "task": "ours_roll_deu_Latn", "output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{question}}",
    "metric_list": [{"metric": "byte_perplexity"}],
}  # fmt: skip


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """As any Llama's, the tokenizer puts <bos> in front by itself."""
    folder = tmp_path_factory.mktemp("bases")
    found = {"encoder": save_mt_model(folder / "mt"), "llm": save_llama(folder / "llm")}
    tokenizer = AutoTokenizer.from_pretrained(found["llm"])
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 0)])
    tokenizer.save_pretrained(found["llm"])
    return found


@pytest.fixture(scope="module")
def stack(bases, tmp_path_factory):
    return make_export(tmp_path_factory.mktemp("stack"), bases=bases, bidirectional=False)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """The harness's manager of three tasks of our own, from files alone."""
    folder = tmp_path_factory.mktemp("tasks")
    rows = folder / "questions.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS), encoding="utf-8")
    own = {"data_files": {"test": str(rows)}, "cache_dir": str(folder / "cache")}
    for task in (CHOOSE, WRITE, ROLL):
        whole = {**task, "dataset_path": "json", "dataset_kwargs": own, "test_split": "test"}
        (folder / f"{task['task']}.yaml").write_text(yaml.safe_dump(whole), encoding="utf-8")
    return TaskManager(include_path=str(folder), include_defaults=False)


def evaluate(model, tasks, names, **options):
    found = lm_eval.simple_evaluate(model, tasks=names, task_manager=tasks, bootstrap_iters=0, **options)
    responses = {name: [sample["resps"] for sample in found["samples"][name]] for name in names}
    return found["results"], responses


def figures(results):
    return {name: {k: v for k, v in row.items() if isinstance(v, float)} for name, row in results.items()}


def sums(responses):
    return torch.tensor([[one[0][0] for one in row] for row in responses], dtype=torch.float64)


def test_the_plain_llm_has_the_figures_of_transformers_own_model(stack, bases, tasks):
    names = [task["task"] for task in (CHOOSE, WRITE)]
    ours, told = evaluate("mtllm", tasks, names, model_args={"pretrained": str(stack), "plain": True, "batch_size": 2})
    theirs, truth = evaluate(HFLM(str(bases["llm"]), device="cpu", batch_size=2), tasks, names)
    assert figures(ours) == figures(theirs)
    torch.testing.assert_close(sums(told[names[0]]), sums(truth[names[0]]), atol=1e-4, rtol=0)
    assert told[names[1]] == truth[names[1]]


@pytest.mark.parametrize("template", [None, TEMPLATE])
def test_an_exported_llm_is_an_ordinary_hugging_face_folder_there(template, bases, tasks, tmp_path):
    chat = {"template": template, "system_prompt": None, "end_id": 1}
    export = make_export(tmp_path, reader="llm", bases=bases, bidirectional=False, chat=chat)
    write_merged(export, tmp_path / "merged")
    names, options = [WRITE["task"]], {"apply_chat_template": True}
    if template is None:  # behind a template's last blank the harness parts answers otherwise
        names, options = [CHOOSE["task"], WRITE["task"]], {}
    ours, told = evaluate(adapter.MTLLMForHarness(str(export)), tasks, names, **options)
    theirs, truth = evaluate(HFLM(str(tmp_path / "merged"), device="cpu", batch_size=2), tasks, names, **options)
    assert figures(ours) == figures(theirs)
    assert told[WRITE["task"]] == truth[WRITE["task"]]
    if template is None:
        torch.testing.assert_close(sums(told[names[0]]), sums(truth[names[0]]), atol=1e-4, rtol=0)
    _, plain = evaluate(HFLM(str(bases["llm"]), device="cpu"), tasks, [WRITE["task"]])
    assert plain[WRITE["task"]] != truth[WRITE["task"]]
    assert "# Language model" in (tmp_path / "merged" / "README.md").read_text()


def test_long_contexts_of_a_plain_llm_are_cut_from_the_left_as_by_transformers_own_model(stack, bases, caplog):
    caplog.set_level("WARNING", "lm_eval")
    llm, mine = HFLM(str(bases["llm"]), device="cpu"), adapter.MTLLMForHarness(str(stack), plain=True, batch_size=2)
    contexts = [" ".join(TEXT * 3), "A chart", " ".join(TEXT * 2)]
    asked = [
        Instance("loglikelihood", {}, (context, " the values"), 0, ("ours", number, 1))
        for number, context in enumerate(contexts)
    ]
    truth = llm.loglikelihood(asked, disable_tqdm=True)
    found = mine.loglikelihood(asked, disable_tqdm=True)
    assert [total for total, _ in found] == pytest.approx([total for total, _ in truth], abs=1e-4)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in truth]
    assert caplog.messages[-1] == "2 contexts are longer than the LLM's 128 positions allow: cut from the left"
    options = {"until": [], "max_gen_toks": NEW, "do_sample": False}
    asked = [
        Instance("generate_until", {}, (context, dict(options)), 0, ("ours", number, 1))
        for number, context in enumerate(contexts)
    ]
    assert mine.generate_until(asked, disable_tqdm=True) == llm.generate_until(asked, disable_tqdm=True)


def test_a_continuation_that_merges_into_the_context_is_told_by_no_token(stack):
    mine = adapter.MTLLMForHarness(str(stack), plain=True)
    length = [len(mine._speaker.tokens_of(TEXT[0][:end])) for end in range(len(TEXT[0]))]
    ends = [
        end
        for end in range(2, len(length) - 1)
        if length[end] >= length[end + 1] and " " not in TEXT[0][end - 1 : end + 1]
    ]
    asked = [
        Instance("loglikelihood", {}, (TEXT[0][:end], TEXT[0][end : end + 1]), 0, ("ours", end, 1)) for end in ends
    ]
    assert asked
    assert mine.loglikelihood(asked, disable_tqdm=True) == [(0.0, True)] * len(asked)


def test_whole_texts_in_windows_are_told_as_by_transformers_own_model(stack, bases, tasks):
    llm = HFLM(str(bases["llm"]), device="cpu", add_bos_token=False)
    mine = adapter.MTLLMForHarness(str(stack), plain=True, batch_size=2)
    long = [" ".join(TEXT * 3), TEXT[0], "", " ".join(TEXT)]  # up to several times its 128 positions
    asked = [Instance("loglikelihood_rolling", {}, (text,), 0, ("ours", 0, 1)) for text in long]
    assert mine.loglikelihood_rolling(asked, disable_tqdm=True) == pytest.approx(
        [*llm.loglikelihood_rolling(asked[:2], disable_tqdm=True), 0.0, *llm.loglikelihood_rolling(asked[3:])], abs=1e-3
    )
    results, _ = evaluate(mine, tasks, [ROLL["task"]])
    assert figures(results)


@torch.no_grad()
def by_hand(model, context, ids, lang="deu_Latn"):
    """Log-probabilities of tokens behind a context that the encoder reads, and whether each is likeliest."""
    reader = model.reader
    read = torch.tensor([model._tokenizers["encoder"]([context], lang)])
    rows = torch.cat(
        [reader.embeddings(read, torch.ones_like(read)), reader.llm.get_input_embeddings()(torch.tensor([ids]))], 1
    )
    states = reader.llm.base_model.model(inputs_embeds=rows).last_hidden_state[0, read.shape[1] - 1 : -1]
    told = load_output_head(model._speakers._llm, reader, torch.float32)(states).double().log_softmax(-1)
    return told.gather(1, torch.tensor(ids)[:, None])[:, 0], told.argmax(-1) == torch.tensor(ids)


def test_a_stack_tells_continuations_behind_what_its_encoder_read(stack, tasks, caplog):
    names = [task["task"] for task in (CHOOSE, WRITE)]
    caplog.set_level("INFO", "lm_eval")
    results, told = evaluate("mtllm", tasks, names, model_args=f"pretrained={stack}")
    model = MTLLM.from_pretrained(stack)
    own = AutoTokenizer.from_pretrained(model._tokenizers["llm"].spec.name)
    expected, alone = [], []
    for row in QUESTIONS:
        ids = [own(f" {choice}", add_special_tokens=False)["input_ids"] for choice in row["choices"]]
        context = f"Question: {row['question']}\nAnswer:"
        expected.append([by_hand(model, context, own_ids)[0].sum() for own_ids in ids])
        alone.append([by_hand(model, "", own_ids)[0].sum() for own_ids in ids])
    expected, alone = torch.tensor(expected), torch.tensor(alone)
    torch.testing.assert_close(sums(told[names[0]]), torch.cat([expected, alone], 1), atol=1e-4, rtol=0)
    answers = torch.tensor([row["answer"] for row in QUESTIONS])
    assert results[names[0]]["acc,none"] == pytest.approx((expected.argmax(1) == answers).double().mean())
    written = model.generate([row["question"] for row in QUESTIONS], "deu_Latn", max_new_tokens=NEW)
    assert [row[0][0] for row in told[names[1]]] == written
    assert caplog.messages.count(f"{names[0]} is read as deu_Latn") == 1


def test_an_encoder_without_tags_needs_no_language(bases, tasks, tmp_path):
    """Its tasks may be in any; what it is told is what the model itself generates, whatever language is said."""
    export = make_export(
        tmp_path, bases={"encoder": save_bert(tmp_path / "bert"), "llm": bases["llm"]}, bidirectional=False
    )
    mine = adapter.MTLLMForHarness(str(export))
    asked = [
        Instance("generate_until", {}, (row["question"], {"until": [], "max_gen_toks": NEW}), 0, ("ours_easy", 0, 1))
        for row in QUESTIONS
    ]
    model = MTLLM.from_pretrained(export)
    assert mine.generate_until(asked, disable_tqdm=True) == model.generate(
        [row["question"] for row in QUESTIONS], "khm_Khmr", max_new_tokens=NEW
    )
    with pytest.raises(
        UserError, match=r"^lang: has no effect where an encoder without tags reads the contexts; leave"
    ):
        adapter.MTLLMForHarness(str(export), lang="deu_Latn")


@pytest.mark.parametrize("blank", ["", " \n"])
def test_a_task_whose_text_stands_in_its_choices_leaves_an_encoder_nothing_to_read(blank, stack, tasks):
    """As the harness's own xnli and pawsx; an LLM that reads alone tells the whole choice."""
    asked = [
        Instance("loglikelihood", {}, args, place, ("xnli_de", number, 1))
        for number, context in enumerate(["A chart", blank])
        for place, args in enumerate([(context, "A chart, true"), (context, "A chart, wrong"), ("", "A chart, true")])
    ]
    mine = adapter.MTLLMForHarness(str(stack))
    with pytest.raises(
        UserError, match=r"^task xnli_de, document 1: no context that the encoder could read, .*; take a task with"
    ):
        mine.loglikelihood(asked, disable_tqdm=True)
    assert (
        len(mine.loglikelihood(asked[:3], disable_tqdm=True)) == 3
    )  # `acc_mutual_info` asks for choices behind nothing
    assert len(adapter.MTLLMForHarness(str(stack), plain=True).loglikelihood(asked, disable_tqdm=True)) == 6


def test_a_task_of_the_harness_without_context_is_refused_before_its_first_figure(stack, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"premise": "A chart", "hypothesis": "The values"}) + "\n", encoding="utf-8")
    task = {
        "task": "pairs_deu_Latn", "dataset_path": "json", "test_split": "test", "output_type": "multiple_choice",
        "dataset_kwargs": {"data_files": {"test": str(rows)}, "cache_dir": str(tmp_path / "cache")},
        "doc_to_text": "", "doc_to_choice": "{{[premise+', true, '+hypothesis, premise+', wrong, '+hypothesis]}}",
        "doc_to_target": 0, "metric_list": [{"metric": "acc"}, {"metric": "acc_mutual_info"}],
    }  # fmt: skip
    (tmp_path / "pairs.yaml").write_text(yaml.safe_dump(task), encoding="utf-8")
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    with pytest.raises(UserError, match=r"^task pairs_deu_Latn, document 0: no context"):
        evaluate("mtllm", manager, ["pairs_deu_Latn"], model_args=f"pretrained={stack}")


def test_examples_in_front_of_nothing_are_asked_about_once(stack, caplog):
    caplog.set_level("WARNING", "lm_eval")
    mine = adapter.MTLLMForHarness(str(stack))
    asked = [
        Instance("loglikelihood", {}, ("A chart, true, the values\n\n", "The legend"), 0, ("xnli_de", number, 1))
        for number in range(2)
    ]
    mine.loglikelihood(asked, disable_tqdm=True)
    assert [line for line in caplog.messages if "xnli_de" in line] == [
        "contexts of xnli_de end with an empty line: does its text stand in its choices, unread by the encoder?"
    ]


def test_a_long_text_behind_an_empty_one_of_the_encoder(stack):
    mine = adapter.MTLLMForHarness(str(stack), lang="deu_Latn", batch_size=3)
    text = " ".join(TEXT)
    (found,) = mine.loglikelihood_rolling([Instance("loglikelihood_rolling", {}, (text,), 0, ("ours", 0, 1))], True)
    model = MTLLM.from_pretrained(stack)
    ids = model._tokenizers["llm"].tokenize([text])[0].ids
    nothing = len(model._tokenizers["encoder"]([""], "deu_Latn"))
    room, expected, start = 128 - nothing, 0.0, 0
    while start < len(ids):
        end = min(len(ids), start + room)
        first = 0 if not start else end - room - 1
        expected += by_hand(model, "", ids[first:end])[0][start - first :].sum().item()
        start = end
    assert len(ids) > 2 * room
    assert found == pytest.approx(expected, abs=1e-3)


def test_the_likeliest_continuation_is_called_greedy(stack):
    mine = adapter.MTLLMForHarness(str(stack), lang="deu_Latn")
    model = MTLLM.from_pretrained(stack)
    (text,) = model.generate(["A chart"], "deu_Latn", max_new_tokens=1)
    asked = [Instance("loglikelihood", {}, ("A chart", one), 0, ("ours", 0, 1)) for one in (text, " the", "")]
    found = mine.loglikelihood(asked, disable_tqdm=True)
    assert [greedy for _, greedy in found] == [True, False, True]
    assert found[0][0] > found[1][0]
    assert found[2][0] == 0.0


def test_stop_strings_are_left_out_and_options_may_differ_by_request(stack):
    mine, model = adapter.MTLLMForHarness(str(stack), lang="deu_Latn", batch_size=2), MTLLM.from_pretrained(stack)
    prompts = [row["question"] for row in QUESTIONS]
    whole = model.generate(prompts, "deu_Latn", max_new_tokens=24)
    stop = whole[0][3:5]
    options = [
        {"until": [stop], "max_gen_toks": 24},
        {"until": [], "max_gen_toks": 24, "temperature": 0.0, "top_p": 0.5},
    ]
    asked = [
        Instance("generate_until", {}, (prompt, options[number % 2]), 0, ("ours", number, 1))
        for number, prompt in enumerate(prompts)
    ]
    assert mine.generate_until(asked, disable_tqdm=True) == [
        text.split(stop)[0] if number % 2 == 0 else text for number, text in enumerate(whole)
    ]


def test_a_chat_is_read_by_the_encoder_without_template_and_by_the_llm_with_it(stack, tasks, tmp_path):
    name, model = WRITE["task"], MTLLM.from_pretrained(stack)
    prompts = [row["question"] for row in QUESTIONS]
    system = {"apply_chat_template": True, "system_instruction": "Be brief."}
    _, told = evaluate(adapter.MTLLMForHarness(str(stack)), tasks, [name], **system)
    assert [row[0][0] for row in told[name]] == model.generate(prompts, "deu_Latn", max_new_tokens=NEW)
    file = tmp_path / "chat.jinja"
    file.write_text(TEMPLATE, encoding="utf-8")
    spoken = adapter.MTLLMForHarness(str(stack), plain=True, template=str(file))
    _, told = evaluate(spoken, tasks, [name], **system)
    asked = [[{"role": "system", "content": "Be brief."}, {"role": "user", "content": prompt}] for prompt in prompts]
    expected = model.generate_with_llm(asked, max_new_tokens=NEW, chat_template=TEMPLATE)
    assert [row[0][0] for row in told[name]] == expected
    assert spoken.chat_template(True) == TEMPLATE


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"lang": "ell_Latn"}, "ell_Grek"),
        (
            {"lang": "deu_Latn", "plain": True},
            "^lang: has no effect where an LLM reads the contexts; leave it out$",
        ),
        ({"batch_size": "auto"}, "^batch_size=auto: not a whole number from 1 up"),
        ({"dtype": "int8"}, "^dtype=int8: no type for a model's weights; use one of float32"),
        ({"peft": "x"}, "^peft=x: mtllm has no such setting; it has pretrained"),
    ],
)
def test_settings_that_do_not_fit_are_one_line(stack, given, line):
    with pytest.raises(UserError, match=line):
        adapter.MTLLMForHarness.create_from_arg_obj({"pretrained": str(stack)} | given)


def test_requests_that_do_not_fit_are_named_before_anything_is_read(stack):
    mine = adapter.MTLLMForHarness(str(stack), lang="deu_Latn")
    asked = [
        Instance("loglikelihood", {}, args, 0, ("ours", number, 1))
        for number, args in enumerate([("A chart", " x"), ("word " * 100, " x")])
    ]
    with pytest.raises(UserError, match=r"^task ours, document 1: \d+ tokens, the encoder takes 64 .*; shorten it$"):
        mine.loglikelihood(asked)
    with pytest.raises(
        UserError, match=r"^task ours, document 0: \d+ tokens with its continuation, the LLM has 128 pos"
    ):
        mine.loglikelihood([Instance("loglikelihood", {}, ("A chart", " word" * 200), 0, ("ours", 0, 1))])
    with pytest.raises(UserError, match=r"^gen_prefix: .*; run it without a chat template$"):
        mine.apply_chat_template([{"role": "assistant", "content": "a"}], add_generation_prompt=False)
    with pytest.raises(UserError, match=r"^languages: the name of the task 'ours' ends with no language"):
        adapter.MTLLMForHarness(str(stack)).loglikelihood(asked)
