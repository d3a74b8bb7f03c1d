"""The demo on public models says which of its ten foreign languages have no test items."""

import subprocess

import pytest

from tests.fixtures.runs import REPOSITORY

MORE = ["spa_Latn", "tur_Latn", "vie_Latn", "zho_Hans"]


def shown(folder):
    """What make would run."""
    settings = ["ENCODER=e5-small", "BACKBONE=minilm", f"HELP_TEXT={folder}"]
    done = subprocess.run(
        ["make", "--dry-run", "--old-file=.venv/.complete", "demo", *settings],
        cwd=REPOSITORY, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("there", [[], MORE[:1], MORE[1:]])
def test_missing_languages_are_named(there, tmp_path):
    for code in [*there, "fra_Latn"]:
        (tmp_path / f"test_{code}.jsonl").write_text("{}\n")
    missing = " ".join(code for code in MORE if code not in there)
    assert f"HELP_TEXT={tmp_path}: no test items in {missing} there, so fewer than ten" in shown(tmp_path)


def test_nothing_is_said_where_all_are_there(tmp_path):
    for code in MORE:
        (tmp_path / f"test_{code}.jsonl").write_text("{}\n")
    found = shown(tmp_path)
    assert "no test items" not in found
    assert f"--more-tests {tmp_path}\n" in found
    assert "benchmarks.public_models.write" in found
