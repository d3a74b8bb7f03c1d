"""The whole pipeline on the tiny Llama: answers are the frozen model's own, byte for byte; ranks and kills change nothing."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from mtllm_ds.commands.prepare import main
from mtllm_ds.data.shards.manifest import Manifest
from mtllm_ds.errors import UserError
from mtllm_ds.transfer_sets.sdrrl.pairs import DEFAULT_WEIGHTS
from mtllm_ds.transfer_sets.sdrrl.stages import read_rows
from tests.distributed.ranks import ranks
from tests.fixtures.runs import REPOSITORY
from tests.fixtures.sdrrl import QUESTIONS, TEMPLATE, UPPER, contents, options


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A folder with the pipeline's `out`, made in this process."""
    folder = tmp_path_factory.mktemp("sdrrl")
    main(["sdrrl", *options(folder)])
    return folder


def test_answers_are_a_replay_by_the_frozen_model(done):
    tokenizer = AutoTokenizer.from_pretrained(REPOSITORY / "assets/llm")
    model = AutoModelForCausalLM.from_pretrained(REPOSITORY / "assets/llm", dtype=torch.float32).eval()
    rows = read_rows(done / "out/answers.jsonl")
    assert [row["prompt"] for row in rows] == QUESTIONS
    for row in rows:
        ids = tokenizer.apply_chat_template(
            [{"role": "user", "content": row["prompt"]}], chat_template=TEMPLATE, add_generation_prompt=True,
            return_tensors="pt", return_dict=False,
        )  # fmt: skip
        written = model.generate(ids, max_new_tokens=32, do_sample=False, stop_strings=["."], tokenizer=tokenizer)
        text = tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True)
        ended = "." in text
        assert row["response"] == text.strip()
        if "rejected" not in row:
            assert ended
        assert (row["by"]["seed"], row["by"]["model"], row["by"]["max_new_tokens"]) == (0, "assets/llm", 32)
        assert row["by"]["weights"].startswith("sha256:")
        assert row["by"]["template"].startswith("sha256:")
    assert sum("rejected" not in row for row in rows) >= 5


def test_dialogues_link_back_and_match_the_weights(done, capsys):
    out = done / "out"
    rows = read_rows(out / "dialogues.jsonl")
    counts = Counter(row["pair_type"] for row in rows)
    for name, weight in DEFAULT_WEIGHTS.items():
        assert abs(counts[name] - weight / sum(DEFAULT_WEIGHTS.values()) * len(rows)) < 1
    answers = {row["id"]: row for row in read_rows(out / "answers.jsonl") if "rejected" not in row}
    for row in rows:
        answer = answers[row["history"]["instruction"]]
        assert row["response"] in (answer["response"], answer["response"].upper())
        assert row.get("teacher_prompt", row["prompt"]) == answer["prompt"]
    report = json.loads((out / "report.json").read_text())
    assert sum(report["answers"].values()) == len(QUESTIONS)
    assert report["answers"]["kept"] == len(answers)
    main(["show", str(out), "--samples", "1"])
    shown = capsys.readouterr().out
    for text in (rows[0]["id"], "instructions: {", "answers: {", "asked.jsonl, line", "pair: {"):
        assert text in shown


def test_what_is_done_is_left_as_it_is(done, capsys):
    before = {path: path.stat().st_mtime_ns for path in (done / "out").glob("*.json*")}
    main(["sdrrl", *options(done)])
    changed = [path.name for path, time_ns in before.items() if path.stat().st_mtime_ns != time_ns]
    assert changed == ["report.json"]


def test_a_folder_from_before_there_was_a_choice_of_what_the_teacher_sees_stays_usable(done):
    """Its dialogues are those of the default, and of no other."""
    summary = done / "out/dialogues.json"
    before, rows = summary.read_text(), (done / "out/dialogues.jsonl").stat().st_mtime_ns
    older = json.loads(before)
    assert older["settings"]["pairs"].pop("teacher_sees") == "question"
    summary.write_text(json.dumps(older))
    try:
        main(["sdrrl", *options(done)])
        assert (done / "out/dialogues.jsonl").stat().st_mtime_ns == rows
        with pytest.raises(UserError, match="its dialogues were made with another pairs"):
            main(["sdrrl", *options(done, "--teacher-sees", "answer")])
    finally:
        summary.write_text(before)


def test_dialogues_become_shards_that_tell_their_whole_history(done, tmp_path, capsys):
    template, rows = str(done / "chat.jinja"), read_rows(done / "out/dialogues.jsonl")
    main(["dialogues", "--input", str(done / "out/dialogues.jsonl"), "--llm", "assets/llm", "--chat-template", template,
          "--keep-records", "--output", str(tmp_path / "shards")])  # fmt: skip
    manifest = Manifest.load(str(tmp_path / "shards"))
    assert manifest.num_samples == len(rows)
    capsys.readouterr()
    for block in range(manifest.num_blocks):
        main(["show", str(tmp_path / "shards"), "--block", str(block), "--samples", "100"])
    shown = capsys.readouterr().out
    stages = {path.stem: {row["id"]: row for row in read_rows(path)} for path in (done / "out").glob("*.jsonl")}
    for row in rows:
        link = row["history"]["instruction"]
        names = ["instructions", "answers"]
        if row["history"]["target"] != "eng_Latn":
            names.append(f"translations.{row['history']['target']}")
        told = [f"  {name}: {json.dumps(stages[name][link], ensure_ascii=False)}\n" for name in names]
        assert f'  id: "{row["id"]}"\n' in shown
        assert "".join(told) in shown


def run_on_rank(arguments):
    from mtllm_ds.commands.prepare import main as prepare

    return prepare(["sdrrl", *arguments])


def test_two_ranks_write_the_same_bytes(done, tmp_path):
    ranks(2).run(run_on_rank, options(tmp_path))
    assert contents(tmp_path / "out").keys() == contents(done / "out").keys()
    for name, content in contents(done / "out").items():
        assert contents(tmp_path / "out")[name].replace(str(tmp_path).encode(), str(done).encode()) == content


SAMPLED = ("--temperature", "0.8", "--top-p", "0.9", "--seed", "3")


@pytest.mark.slow
def test_killed_at_random_moments_it_neither_repeats_nor_loses(done, tmp_path):
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    main(["sdrrl", *options(tmp_path / "whole", *SAMPLED)])
    arguments = options(tmp_path / "killed", *SAMPLED)
    out, chance = tmp_path / "killed/out", random.Random(os.getpid())
    for _ in range(3):
        process = start(arguments)
        while process.poll() is None and not list(out.glob(".answers/*.jsonl")):
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.8))
        process.send_signal(signal.SIGKILL)
        process.wait()
        kept = [row for path in out.glob(".answers/*.jsonl") for row in whole_lines(path)]
        assert len({row["id"] for row in kept}) == len(kept)  # nothing was written twice
    last = start(arguments)
    _, said = last.communicate(timeout=240)
    assert last.returncode == 0, said
    for name, content in contents(tmp_path / "whole/out").items():
        found = contents(out)[name].replace(str(tmp_path / "killed").encode(), str(tmp_path / "whole").encode())
        assert found == content, name


def start(arguments):
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "launchers/prepare.py", "sdrrl", *arguments]
    return subprocess.Popen(
        command, cwd=REPOSITORY, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def whole_lines(path):
    rows = []
    for line in path.read_text(errors="replace").split("\n"):
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def test_a_model_that_ends_no_turn_writes_no_instructions(tmp_path):
    given = options(tmp_path)
    at = given.index("--instructions")
    del given[at : at + 2]
    line = r"--self-instructions=2: of \d+ samples only 0 can be used \(.*'cut_off'.*\); ask for fewer"
    with pytest.raises(UserError, match=line):
        main(["sdrrl", *given, "--self-instructions", "2", "--instruction-tokens", "3"])


def test_gold_answers_stand_in_place_of_the_models_own(tmp_path):
    """Translated and paired in the same way; the model writes nothing."""
    rows = [{"prompt": text, "gold": f"People say: {text}"} for text in QUESTIONS[:6]]
    rows[1]["gold"], rows[2]["gold"] = "", "No <eos> here"
    given = options(tmp_path, "--gold-field", "gold")
    for option in ("--stop", "--max-new-tokens", "--batch-size"):
        at = given.index(option)
        del given[at : at + 2]
    (tmp_path / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    main(["sdrrl", *given])
    found = read_rows(tmp_path / "out/answers.jsonl")
    assert [row["response"] for row in found] == [row["gold"] for row in rows]
    assert [row.get("rejected") for row in found] == [None, "empty", "special_token", None, None, None]
    assert "asked.jsonl, line 1" in found[0]["by"]["file"]
    upper = {row["id"]: row["response"] for row in read_rows(tmp_path / "out/translations.spa_Latn.jsonl")}
    assert upper == {row["id"]: row["response"].upper() for row in found if "rejected" not in row}
    assert {row["history"]["instruction"] for row in read_rows(tmp_path / "out/dialogues.jsonl")} == set(upper)


MISTAKES = [
    (["--temperature", "0.7"], r"made with another generation"),
    (["--top-p", "0.5"], r"--top-p=0.5: has no effect without --temperature"),
    (["--gold-field", "gold"], r"--max-new-tokens=32: has no effect without answers of the model's own"),
    (["--teacher-sees", "answer"], r"made with another pairs"),
    (
        ["--teacher-sees", "answer", "--pairs", "completion=1", "q_t_a_t=0"],
        r"--teacher-sees=answer: has no effect without pairs of questions, such as --pairs q_t_a_t=4; remove it",
    ),
    (["--code-switch-ratio", "0.5"], r"--code-switch-ratio=0.5: has no effect without --pairs code_switched="),
    (["--instruction-tokens", "5"], r"--instruction-tokens=5: has no effect without --self-instructions"),
    (["--self-instructions", "5"], r"--instructions: give files, or --self-instructions N"),
    (["--pairs", "code_switched=1"], r"code_switched: needs --lexicon spa_Latn=\.\.\."),
    (["--pairs", "completion=1"], r"completion: needs --parallel spa_Latn="),
    (["--lexicon", "spa_Latn=x.tsv"], r"--lexicon: has no effect without a weight of code_switched"),
    (["--pairs", "code_switched=1", "--lexicon", "deu_Latn=x.tsv"], r"needs --lexicon spa_Latn"),
    (["--pairs", "q_t_a_t"], r"--pairs q_t_a_t: no weight; write TYPE=WEIGHT"),
    (["--translator", UPPER], r"of no language; write CODE="),
    (["--languages", "cat_Latn"], r"--languages=cat_Latn: no translator"),
    (["--translator", "spa_Latn=command:apertium eng-xyz"], r"Apertium .*apt-get install apertium-eng-xyz"),
    (["--translator", "xyz_Latn=command:cat"], r"unknown language tag 'xyz_Latn'"),
    (["--exclude", "nowhere"], r"nowhere: no such file"),
    (["--llm", "./nowhere"], r"nowhere"),
]


def test_reference_answers_are_not_written_in_batches(tmp_path):
    given = ["--llm", "assets/llm", "--instructions", "x.jsonl", "--gold-field", "gold", "--output", str(tmp_path)]
    line = r"--batch-size=8: has no effect without answers of the model's own, which --gold-field replaces; remove it"
    with pytest.raises(UserError, match=line):
        main(["sdrrl", *given, "--translator", f"spa_Latn={UPPER}", "--batch-size", "8"])


@pytest.mark.parametrize(("more", "line"), MISTAKES)
def test_mistakes_are_one_line(done, more, line):
    with pytest.raises(UserError, match=line) as raised:
        main(["sdrrl", *options(done), *more])
    assert "\n" not in str(raised.value)
