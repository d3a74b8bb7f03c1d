"""evaluate.py from the command line: what works, and one line for every mistake."""

import json
import os
import subprocess
import sys

import pytest
import yaml

from mtllm_ds.evaluation.retrieval import score_parallel
from mtllm_ds.inference import MTLLM
from tests.fixtures.exports import make_export
from tests.fixtures.runs import REPOSITORY

LABELS = ["blue", "red"]


def launch(*arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "120"}
    return subprocess.run(
        [sys.executable, "launchers/evaluate.py", *map(str, arguments)],
        cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def refused(*arguments):
    done = launch(*arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    return line


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def task(tmp_path):
    """A task of two colours in English and German; returns its file."""
    rows = [
        {"id": str(n), "group": str(n // 2), "label": LABELS[n % 2], "text": f"{LABELS[n % 2]} {n}"} for n in range(40)
    ]
    write_rows(tmp_path / "train_eng_Latn.jsonl", rows)
    write_rows(tmp_path / "test_eng_Latn.jsonl", rows[:10])
    write_rows(
        tmp_path / "test_deu_Latn.jsonl",
        [row | {"text": f"farbe {row['id']}", "text_en": row["text"]} for row in rows[:10]],
    )
    fields = {"segments": ["text"], "id": ["id"], "group": ["group"], "original": "text_en"}
    values = {
        "name": "colours", "type": "classification", "labels": LABELS, "languages": ["eng_Latn", "deu_Latn"],
        "source": {"folder": str(tmp_path), "fields": fields},
    }  # fmt: skip
    path = tmp_path / "colours.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_from_baselines_to_a_report(task, tmp_path):
    files = [tmp_path / f"{system}.parquet" for system in ("tfidf", "majority")]
    for file in files:
        done = launch("baseline", "--task", task, "--system", file.stem, "--output", file)
        assert done.returncode == 0, done.stderr
    done = launch("tables", "--predictions", *files, "--output", tmp_path / "report", "--compare", "tfidf", "majority")
    assert done.returncode == 0, done.stderr
    assert "deu_Latn" in done.stdout
    summary = json.loads((tmp_path / "report" / "summary.json").read_text())
    assert summary["plain/eng_Latn/tfidf"] == 1.0
    assert summary["copy_masked/deu_Latn/majority"] == 0.5
    assert "plain/difference/tfidf-majority/mean" in summary
    assert (tmp_path / "report" / "report.html").is_file()
    assert "share no language" in refused(
        "tables", "--predictions", *files, "--output", tmp_path / "other", "--compare", "tfidf", "mtllm"
    )
    assert not (tmp_path / "other").exists()


def test_mistakes(task, tmp_path):
    def baseline(which, *more):
        return refused("baseline", "--task", which, "--system", "majority", "--output", tmp_path / "out.parquet", *more)

    assert "the nearest is 'ddtp_topics'" in baseline("ddtp_topic")
    assert "did you mean 'deu_Latn'" in baseline(task, "--languages", "deu_Latin")
    values = yaml.safe_load(task.read_text())
    task.write_text(yaml.safe_dump(values | {"languages": ["eng_Latn", "tar_Latn"]}))
    assert "tag_proxies.tar_Latn" in baseline(task)
    task.write_text(yaml.safe_dump(values | {"labels": ["blue", "green"]}))
    assert "label 'red' is not one of the task's (blue, green)" in baseline(task)
    task.write_text(yaml.safe_dump(values))
    (tmp_path / "test_deu_Latn.jsonl").write_text("")
    assert "the test split of deu_Latn is empty" in baseline(task)
    assert not (tmp_path / "out.parquet").exists()


def test_retrieval_of_an_export(tmp_path):
    make_export(tmp_path)
    english = [f"the {word} of the window" for word in ("size", "colour", "name", "end", "side")]
    foreign = [text.replace("the", "das") for text in english]
    write_rows(tmp_path / "pairs.jsonl", [{"text": f, "text_en": e} for f, e in zip(foreign, english, strict=True)])
    arguments = ("--model", tmp_path / "export", "--file", tmp_path / "pairs.jsonl", "--output", tmp_path / "scores")
    done = launch("retrieval", *arguments, "--language", "deu_Latn", "--batch-size", 2, "--precision", "fp32")
    assert done.returncode == 0, done.stderr
    assert "among 5" in done.stdout
    model = MTLLM.from_pretrained(tmp_path / "export")
    expected = score_parallel(
        foreign,
        english,
        lambda t: model.encode(t, lang="deu_Latn").numpy(),
        lambda t: model.encode(t, lang="eng_Latn").numpy(),
    )
    summary = json.loads((tmp_path / "scores" / "summary.json").read_text())
    settings = json.loads((tmp_path / "scores" / "settings.json").read_text())
    assert settings == {"language": "deu_Latn", "vectors": "mtllm"}
    assert summary == pytest.approx(expected.flat(), abs=1e-4)
    assert "'ell_Grek'" in refused("retrieval", *arguments, "--language", "ell_Latn")
    assert "device 'gpu9'" in refused("retrieval", *arguments, "--language", "deu_Latn", "--device", "gpu9")
    assert "1 pairs read" in refused("retrieval", *arguments, "--language", "deu_Latn", "--limit", 1)
    assert "no input file" in refused(
        "retrieval", *arguments, "--language", "deu_Latn", "--file", tmp_path / "none.jsonl"
    )
