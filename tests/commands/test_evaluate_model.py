"""`evaluate model` from the command line: one rank and two, and one line for every mistake."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from mtllm_ds.commands import evaluate
from mtllm_ds.errors import UserError
from mtllm_ds.evaluation.answers.predictions import read_predictions
from mtllm_ds.evaluation.items.items import load_items
from mtllm_ds.evaluation.items.tasks import load_task
from mtllm_ds.evaluation.items.translated import translated, write_task
from mtllm_ds.inference import MTLLM
from tests.fixtures.exports import make_export
from tests.fixtures.runs import REPOSITORY
from tests.fixtures.tasks import LABELS, save_task, text_of, write_rows

BIN = Path(sys.executable).parent


def launch(*arguments, launcher=(sys.executable,)):
    """The command in processes of its own."""
    environment = {
        **os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
        "PATH": f"{BIN}:{os.environ['PATH']}",
    }  # fmt: skip
    return subprocess.run(
        [*map(str, launcher), "launchers/evaluate.py", *map(str, arguments)],
        cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=600,
    )  # fmt: skip


@pytest.fixture
def run(monkeypatch):
    """The command in this process, where libraries are loaded already."""

    def run_here(*arguments):
        monkeypatch.delenv("RANK", raising=False)
        monkeypatch.setenv("COLUMNS", "120")
        assert evaluate.main(list(map(str, arguments))) == 0

    return run_here


@pytest.fixture
def refused(run):
    """What a mistake says: one line."""

    def refused_here(*arguments):
        with pytest.raises(UserError) as caught:
            run(*arguments)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return refused_here


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    """An untrained stack with a head for the colours."""
    return make_export(
        tmp_path_factory.mktemp("export"), task={"name": "colours", "type": "classification", "labels": LABELS}
    )


@pytest.fixture
def task(tmp_path):
    return save_task(tmp_path / "data", 24)


def test_one_rank_two_ranks_and_other_batches(export, task, tmp_path, run, capsys):
    arguments = ("--model", export, "--task", task)
    run("model", *arguments, "--languages", "all", "--output", tmp_path / "one", "--batch-size", 5)
    shown = capsys.readouterr()
    assert "deu_Latn copy_masked: accuracy" in shown.err
    assert "report: " in shown.out
    deepspeed = (BIN / "deepspeed", "--num_gpus", 2, "--master_port", 29000 + os.getpid() % 500)
    done = launch(*arguments, "--output", tmp_path / "two", launcher=deepspeed)  # without a command: `model`
    assert done.returncode == 0, done.stdout + done.stderr
    one, two = (read_predictions([tmp_path / name / "predictions.parquet"]) for name in ("one", "two"))
    keys = [sorted(zip(p.setting, p.language, p.id, p.prediction, strict=True)) for p in (one, two)]
    assert keys[0] == keys[1]
    assert len(one) == 24 * 5
    assert set(one.prediction) <= set(LABELS)
    run("tables", "--predictions", tmp_path / "one" / "predictions.parquet", "--output", tmp_path / "again")
    assert (tmp_path / "again" / "tables.json").read_text() == (tmp_path / "one" / "tables.json").read_text()
    summary = json.loads((tmp_path / "one" / "summary.json").read_text())
    assert summary["seconds_per_item/mtllm_direct"] > 0


def test_controls_change_what_the_model_reads(export, task, tmp_path, run, refused):
    arguments = ("model", "--model", export, "--task", task, "--setting", "plain", "--precision", "fp32")
    scores = {}
    for control in ("none", "wrong_tag", "shuffled_connector"):
        run(*arguments, "--control", control, "--output", tmp_path / control)
        found = read_predictions([tmp_path / control / "predictions.parquet"])
        assert set(found.system) == {"mtllm_direct" if control == "none" else control}
        scores[control] = found.where(language="deu_Latn").score.tolist()
    truth = MTLLM.from_pretrained(export)
    items = load_items(load_task(str(task)), "test", "deu_Latn")

    def probabilities(tag):
        return [float(row.softmax(-1).max()) for row in truth.predict(items, tag, batch_size=32)]

    assert scores["none"] == pytest.approx(probabilities("deu_Latn"), abs=1e-5)
    assert scores["wrong_tag"] == pytest.approx(probabilities("khm_Khmr"), abs=1e-5)  # the task's next language
    assert scores["none"] != pytest.approx(scores["wrong_tag"], abs=1e-4)
    linear = truth.reader.connector
    order = torch.randperm(linear.out_features, generator=torch.Generator().manual_seed(0))
    linear.weight.data, linear.bias.data = linear.weight.data[order], linear.bias.data[order]
    assert scores["shuffled_connector"] == pytest.approx(probabilities("deu_Latn"), abs=1e-5)
    assert scores["none"] != pytest.approx(scores["shuffled_connector"], abs=1e-4)
    more = ("--system", "mtllm_direct", "--output", tmp_path / "none")
    assert "with control none, not wrong_tag" in refused(*arguments, "--control", "wrong_tag", *more)
    more = ("--read", "originals", "--output", tmp_path / "out")
    assert "does not go together" in refused(*arguments, "--control", "wrong_tag", *more)


def changed(export, folder, change):
    """A copy of the export whose config.json was changed."""
    shutil.copytree(export, folder)
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_models_that_do_not_fit(export, task, tmp_path, refused):
    def asked(model, which=task):
        return refused("model", "--model", model, "--task", which, "--output", tmp_path / "out")

    newer = changed(export, tmp_path / "newer", lambda config: config.update(format=99))
    assert re.search(r"format 99 .*install the version", asked(newer))
    headless = changed(export, tmp_path / "headless", lambda config: config.update(task=None))
    assert "it has no head, so it cannot answer colours" in asked(headless)
    pairs = changed(export, tmp_path / "pairs", lambda config: config["task"].update(type="pair_classification"))
    assert "cannot answer colours (classification)" in asked(pairs)
    others = changed(export, tmp_path / "others", lambda config: config["task"].update(labels=["a", "b", "c"]))
    assert "whose labels are a, b, c, and not blue, green, red" in asked(others)
    assert "config.json cannot be read" in asked(tmp_path / "nowhere")
    values = yaml.safe_load(task.read_text())
    task.write_text(yaml.safe_dump(values | {"languages": ["eng_Latn", "jpn_Jpan"]}))
    assert "no tag for jpn_Jpan of colours; leave them out: --languages eng_Latn" in asked(export)
    assert not (tmp_path / "out").exists()


def test_mistakes_in_task_and_data(export, task, tmp_path, refused):
    def asked(which, *more):
        return refused("model", "--model", export, "--task", which, "--output", tmp_path / "out", *more)

    assert "the nearest is 'ddtp_topics'" in asked("ddtp_topic")
    assert "did you mean 'deu_Latn'" in asked(task, "--languages", "deu_Latin")
    values = yaml.safe_load(task.read_text())
    task.write_text(yaml.safe_dump(values | {"languages": ["eng_Latn", "tar_Latn"]}))
    assert "tag_proxies.tar_Latn" in asked(task)
    task.write_text(yaml.safe_dump(values))
    german = task.parent / "test_deu_Latn.jsonl"
    rows = [json.loads(line) for line in german.read_text(encoding="utf-8").splitlines()]
    write_rows(german, [*rows[:5], rows[5] | {"label": "gren"}])
    assert "line 6: label 'gren' is not one of the task's (blue, green, red)" in asked(task)
    german.write_text("")
    assert "the test split of deu_Latn is empty" in asked(task)
    assert "has English originals" in asked(task, "--languages", "eng_Latn", "--setting", "masked")
    assert not (tmp_path / "out" / "predictions.parquet").exists()


def german_rows(task, change):
    path = task.parent / "test_deu_Latn.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    write_rows(path, change(rows))


@pytest.mark.parametrize(
    ("mistake", "line"),
    [
        (lambda config, values, task: config.update(format=99), "format 99 .*install the version"),
        (lambda config, values, task: config.update(task=None), "it has no head"),
        (lambda config, values, task: values.update(languages=["eng_Latn", "jpn_Jpan"]), "no tag for jpn_Jpan"),
        (lambda config, values, task: german_rows(task, lambda rows: [rows[0] | {"label": "gren"}]), "line 1: label 'gren'"),
        (lambda config, values, task: german_rows(task, lambda rows: []), "the test split of deu_Latn is empty"),
    ],
    ids=["newer export", "no head", "missing tag", "label not in task", "empty test"],
)  # fmt: skip
def test_a_mistake_ends_the_process_with_status_2(export, task, tmp_path, mistake, line):
    """The same in a process of its own: one line on stderr and nothing else."""
    values = yaml.safe_load(task.read_text())
    model = changed(export, tmp_path / "model", lambda config: mistake(config, values, task))
    task.write_text(yaml.safe_dump(values))
    done = launch("model", "--model", model, "--task", task, "--output", tmp_path / "out")
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(rf"error: .*{line}.*\n", done.stderr), done.stderr
    assert not (tmp_path / "out").exists()


def test_a_translated_task_is_read_as_english_and_stays_in_means(export, task, tmp_path, run):
    german = load_items(load_task(str(task)), "test", "deu_Latn")
    english = translated(german, lambda texts: [text_of(number, "eng_Latn") for number in range(len(texts))])
    items, read_as = {("test", "deu_Latn"): english}, {"deu_Latn": "eng_Latn"}
    new = write_task(tmp_path / "new", load_task(str(task)), items, read_as)
    arguments = ("model", "--model", export, "--task", new, "--languages", "deu_Latn", "--precision", "fp32")
    run(*arguments, "--output", tmp_path / "out")
    found = read_predictions([tmp_path / "out" / "predictions.parquet"])
    assert set(found.language) == {"deu_Latn"}
    model = MTLLM.from_pretrained(export)

    def asked(tag):
        logits = torch.stack(model.predict(english, tag, batch_size=32))
        return [LABELS[i] for i in logits.argmax(1).tolist()], logits.softmax(-1).max(1).values.tolist()

    answers, scores = asked("eng_Latn")
    assert found.prediction.tolist() == answers
    assert found.score.tolist() == pytest.approx(scores, abs=1e-5)
    assert scores != pytest.approx(asked("deu_Latn")[1], abs=1e-4)
    tables = json.loads((tmp_path / "out" / "tables.json").read_text())
    assert (tables["plain"]["starred"], tables["plain"]["mean_languages"]) == ([], ["deu_Latn"])


def test_a_proxied_language_is_read_with_its_proxy_and_starred(export, task, tmp_path, run, capsys):
    values = yaml.safe_load(task.read_text())
    shutil.copy(task.parent / "test_deu_Latn.jsonl", task.parent / "test_tar_Latn.jsonl")
    task.write_text(
        yaml.safe_dump(values | {"languages": ["deu_Latn", "tar_Latn"], "tag_proxies": {"tar_Latn": "deu_Latn"}})
    )
    run("model", "--model", export, "--task", task, "--output", tmp_path / "out", "--setting", "plain")
    assert "tar_Latn*" in capsys.readouterr().out
    found = read_predictions([tmp_path / "out" / "predictions.parquet"])
    german, proxied = (found.where(language=code).prediction.tolist() for code in ("deu_Latn", "tar_Latn"))
    assert german == proxied
    tables = json.loads((tmp_path / "out" / "tables.json").read_text())
    assert tables["plain"]["starred"] == ["tar_Latn"]
    assert tables["plain"]["mean_languages"] == ["deu_Latn"]
