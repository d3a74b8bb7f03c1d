"""`mtllm-ds generate`: a file of responses is what `MTLLM.generate` writes, also after a kill; mistakes are one line."""

import io
import json
import sys
from types import SimpleNamespace

import pytest
import torch

from mtllm_ds import MTLLM
from mtllm_ds.cluster.launch import join_cluster
from mtllm_ds.commands import run_command
from mtllm_ds.errors import UserError
from mtllm_ds.transfer_sets.sdrrl.stages import Stage
from tests.distributed.ranks import RankError, ranks
from tests.fixtures.dialogues import TEMPLATE
from tests.fixtures.exports import make_export
from tests.fixtures.models import save_llama, save_mt_model

TEXTS = ["The dialog sets the options.", "A chart", "Select the cells that hold the formula, then choose", "Print it"]
NEW = 6


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Base models, a stack, and files of prompts."""
    folder = tmp_path_factory.mktemp("generate")
    bases = {"encoder": save_mt_model(folder / "mt"), "llm": save_llama(folder / "llm")}
    (folder / "stack").mkdir()
    export = make_export(folder / "stack", bases=bases, bidirectional=False)
    (folder / "prompts.txt").write_text("\n".join(TEXTS) + "\n\n", encoding="utf-8")
    records = [{"id": f"p{number}", "language": "deu_Latn", "prompt": text} for number, text in enumerate(TEXTS)]
    records[1] = {"id": "p1", "language": "fra_Latn", "messages": [{"role": "user", "content": TEXTS[1]}], "more": 1}
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in records), encoding="utf-8")
    return SimpleNamespace(folder=folder, stack=export, llm=bases["llm"])


def generate(place, *more, model=None, source="prompts.jsonl", output="answers.jsonl"):
    given = [str(model or place.stack), "--input", source if source == "-" else str(place.folder / source)]
    fixed = ["--max-new-tokens", str(NEW), "--precision", "fp32", "--output", str(place.folder / output)]
    assert run_command(["generate", *given, *fixed, *map(str, more)]) == 0
    return [json.loads(line) for line in (place.folder / output).read_text(encoding="utf-8").splitlines()]


def test_rows_are_what_the_model_writes_in_the_order_of_the_prompts(place):
    rows = generate(place, "--batch-size", 2)
    model = MTLLM.from_pretrained(place.stack)
    languages = ["deu_Latn", "fra_Latn", "deu_Latn", "deu_Latn"]
    assert [row["response"] for row in rows] == model.generate(TEXTS, languages, max_new_tokens=NEW)
    assert [row["id"] for row in rows] == ["p0", "p1", "p2", "p3"]
    assert [row["language"] for row in rows] == languages
    assert rows[1]["prompt"] == [{"role": "user", "content": "A chart"}]
    made_with = json.loads((place.folder / "answers.json").read_text())["settings"]
    assert (made_with["dtype"], made_with["max_new_tokens"]) == ("float32", NEW)


def test_texts_standard_input_and_what_is_drawn(place, monkeypatch):
    drawn = ["--language", "deu_Latn", "--temperature", 1.5, "--top-p", 0.9, "--seed", 3]
    rows = generate(place, *drawn, source="prompts.txt", output="drawn.jsonl")
    model = MTLLM.from_pretrained(place.stack)
    options = {"do_sample": True, "temperature": 1.5, "top_p": 0.9, "seed": 3, "max_new_tokens": NEW}
    assert [row["response"] for row in rows] == model.generate(TEXTS, "deu_Latn", **options)
    assert [row["id"] for row in rows] == ["1", "2", "3", "4"]
    piped = io.TextIOWrapper(io.BytesIO((place.folder / "prompts.txt").read_bytes()))
    monkeypatch.setattr(sys, "stdin", piped)
    assert generate(place, *drawn, source="-", output="piped.jsonl") == rows


def test_a_language_model_as_it_is_writes_as_transformers_does(place):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    rows = generate(place, model=place.llm, source="prompts.txt", output="llm.jsonl")
    whole, tokenizer = AutoModelForCausalLM.from_pretrained(place.llm).eval(), AutoTokenizer.from_pretrained(place.llm)
    for row in rows:
        ids = torch.tensor([MTLLM.from_base("llm", str(place.llm)).ids([row["prompt"]], "eng_Latn")])
        truth = whole.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, do_sample=False)
        assert row["response"] == tokenizer.decode(truth[0, ids.shape[1] :], skip_special_tokens=True)
    plain = generate(place, "--plain-llm", source="prompts.txt", output="plain.jsonl")
    assert [row["response"] for row in plain] == [row["response"] for row in rows]
    template = place.folder / "chat.jinja"
    template.write_text(TEMPLATE)
    asked = ["--chat", "--chat-template", template]
    spoken = generate(place, *asked, model=place.llm, source="prompts.txt", output="chat.jsonl")
    assert [row["response"] for row in spoken] != [row["response"] for row in rows]


def test_a_killed_run_writes_the_rest_and_another_one_is_refused(place, monkeypatch):
    whole = generate(place, "--batch-size", 1, output="whole.jsonl")
    add, kept = Stage.add, []

    def killed(self, rows):
        if len(kept) == 2:
            raise KeyboardInterrupt
        kept.append(rows := list(rows))
        add(self, rows)

    monkeypatch.setattr(Stage, "add", killed)
    with pytest.raises(KeyboardInterrupt):
        generate(place, "--batch-size", 1, output="killed.jsonl")
    assert not (place.folder / "killed.jsonl").exists()
    kept.clear()
    with pytest.raises(UserError, match=r"its killed were made with another seed .*; choose another folder"):
        generate(place, "--batch-size", 1, "--seed", 1, output="killed.jsonl")
    assert kept == []
    assert generate(place, "--batch-size", 1, output="killed.jsonl") == whole
    assert len(kept) == 2  # the other two were there
    assert generate(place, "--batch-size", 1, output="killed.jsonl") == whole
    assert len(kept) == 2


@pytest.mark.parametrize(
    ("more", "options", "said"),
    [
        ((), {"output": "x.txt"}, r"--output=.*x\.txt: a file of JSON lines is written"),
        ((), {"source": "nowhere.jsonl"}, "--input=.*nowhere.jsonl: no file there"),
        ((), {"source": "chat.csv"}, "cannot tell the format by its name"),
        (("--language", "ell_Latn"), {"source": "prompts.txt"}, "did you mean 'ell_Grek'"),
        ((), {"source": "prompts.txt"}, r"prompts\.txt, line 1.*needs a language tag"),
        ((), {"source": "twice.jsonl"}, r"twice\.jsonl, line 2: the id 'a' stands at .*line 1 too; name each once"),
        ((), {"source": "both.jsonl"}, r"both\.jsonl, line 1: holds 2 of 'prompt' and 'messages'"),
        ((), {"source": "number.jsonl"}, r"number\.jsonl, line 1: 'prompt' is no text"),
        ((), {"source": "blank.jsonl"}, r"blank\.jsonl, line 1: empty; give it text"),
        ((), {"source": "empty.txt"}, r"empty\.txt: holds no prompt"),
        ((), {"source": "tag.jsonl"}, r"tag\.jsonl, line 1: unknown language tag 'xx'"),
        ((), {"model": "./nowhere"}, r"model=./nowhere: no such folder; name a run, an export"),
        (("--option", "no_repeat"), {}, "--option no_repeat: no value; write NAME=VALUE"),
        (("--option", "temprature=1"), {}, "no such option; the nearest is 'temperature'"),
        (("--top-p", "0.5"), {}, "top_p=0.5: has no effect without do_sample=True"),
        (("--top-p", "0.5", "--option", "top_p=0.4"), {}, "'top_p' is given by an option of its own"),
        (("--encoder", "x"), {"model": "llm"}, "--encoder=x: has no effect on a language model that is whole"),
        (("--plain-llm",), {"model": "llm"}, "has no LoRA"),
        (("--chat-template", "nowhere.jinja"), {}, "--chat-template=nowhere.jinja: cannot be read"),
        (("--max-new-tokens", "500"), {}, r"prompts\.jsonl, line \d: \d+ tokens and max_new_tokens=500 are more than"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(place, more, options, said):
    files = {
        "twice.jsonl": '{"id": "a", "prompt": "x"}\n{"id": "a", "prompt": "y"}',
        "both.jsonl": '{"prompt": "x", "messages": []}', "number.jsonl": '{"prompt": 3}',
        "blank.jsonl": '{"language": "deu_Latn", "prompt": " "}', "tag.jsonl": '{"language": "xx", "prompt": "a"}',
        "empty.txt": "\n\n", "chat.csv": "a,b",
    }  # fmt: skip
    for name, content in files.items():
        (place.folder / name).write_text(content)
    given = {**options, "model": place.llm if options.get("model") == "llm" else options.get("model")}
    with pytest.raises(UserError, match=said) as told:
        generate(place, *more, **{"output": "none.jsonl", **given})
    assert "\n" not in str(told.value)
    assert told.value.exit_status == 2
    assert not list(place.folder.glob("*none*"))


@pytest.mark.parametrize(
    ("source", "output", "said"),
    [
        ("asked.jsonl", "asked.jsonl", r"--output=.*asked\.jsonl: .*asked\.jsonl would be overwritten"),
        ("asked.json", "asked.jsonl", r"--output=.*: .*asked\.json would be overwritten"),
        (
            "prompts.jsonl",
            "asked.jsonl",
            r"asked\.jsonl is there, and asked\.json, which says .* is not; choose another",
        ),
        ("prompts.jsonl", "noted.jsonl", r"noted\.json does not say what was made there with what; choose another"),
        ("prompts.jsonl", "listed.jsonl", r"listed\.json does not say what was made"),
    ],
)
def test_no_file_of_another_is_overwritten(place, tmp_path, source, output, said):
    row = '{"id": "p", "language": "deu_Latn", "prompt": "A chart", "more": 1}\n'
    (tmp_path / "prompts.jsonl").write_text(row)
    asked = "asked.json" if source == "asked.json" else "asked.jsonl"
    theirs = {asked: row, "noted.json": '{"a": 1}', "listed.json": "[1]\n[2]"}
    for name, content in theirs.items():
        (tmp_path / name).write_text(content)
    given = ["--input", tmp_path / source, "--output", tmp_path / output, "--max-new-tokens", NEW]
    with pytest.raises(UserError, match=said) as told:
        run_command(["generate", str(place.stack), *map(str, given)])
    assert "\n" not in str(told.value)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {**theirs, "prompts.jsonl": row}


def generate_on_rank(stack, source, output, piped):
    """On each rank; `piped` is what its standard input gives it."""
    piped_here = piped[join_cluster().rank]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(piped_here)))
        given = ["--input", source, "--language", "deu_Latn", "--output", output, "--max-new-tokens", NEW]
        return run_command(["generate", str(stack), *map(str, given), "--precision", "fp32"])


def test_standard_input_of_several_ranks_is_read_by_one(place, tmp_path):
    text = (place.folder / "prompts.txt").read_bytes()
    assert ranks(2).run(generate_on_rank, place.stack, "-", tmp_path / "two.jsonl", [text, b""]) == [0, 0]
    alone = generate(place, "--language", "deu_Latn", source="prompts.txt", output="alone.jsonl")
    assert [json.loads(line) for line in (tmp_path / "two.jsonl").read_text(encoding="utf-8").splitlines()] == alone


def test_a_missing_file_stops_all_ranks(place, tmp_path):
    with pytest.raises(RankError, match=r"UserError: --input=.*nowhere\.txt: no file there") as told:
        ranks(2).run(generate_on_rank, place.stack, "nowhere.txt", tmp_path / "none.jsonl", [b"", b""])
    assert [error[0] for error in told.value.errors] == ["UserError", "PeerFailedError"]
