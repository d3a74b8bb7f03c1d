"""translate.py from the command line: folders that are tasks again, and one line for a mistake."""

import json
import os
import subprocess
import sys

import pytest

from mtllm_ds.commands.translate import main
from mtllm_ds.errors import UserError
from mtllm_ds.evaluation.items.items import load_items
from mtllm_ds.evaluation.items.tasks import load_task
from tests.fixtures.models import save_mt_model
from tests.fixtures.runs import REPOSITORY
from tests.fixtures.tasks import save_task


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("translate")
    save_mt_model(folder / "mt")
    save_task(folder / "task", 9)
    return folder


def launch(place, *arguments, status=0):
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    given = [
        "--task",
        place / "task" / "colours.yaml",
        "--mt",
        place / "mt",
        "--cache",
        place / "cache",
        *arguments[1:],
    ]
    done = subprocess.run(
        [sys.executable, "launchers/translate.py", *map(str, (arguments[0], *given))],
        cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == status, done.stdout + done.stderr
    return done


def test_readings_of_the_test(place, tmp_path):
    launch(place, "test", "--readings", "plain", "masked_after", "--output", tmp_path / "new")
    found = {}
    for reading in ("plain", "masked_after"):
        task = load_task(str(tmp_path / "new" / reading / "task.yaml"))
        assert task.read_as == {"deu_Latn": "eng_Latn", "khm_Khmr": "eng_Latn"}
        found[reading] = [item for code in ("deu_Latn", "khm_Khmr") for item in load_items(task, "test", code)]
    original = load_task(str(place / "task" / "colours.yaml"))
    expected = [item for code in ("deu_Latn", "khm_Khmr") for item in load_items(original, "test", code)]
    for items in found.values():
        assert [(item.id, item.label) for item in items] == [(item.id, item.label) for item in expected]
    assert [item.segments for item in found["plain"]] != [item.segments for item in expected]
    assert json.loads((tmp_path / "new" / "translation.json").read_text())["num_items"] == 36


def test_training_items_in_languages_and_through_them(place, tmp_path):
    launch(place, "train", "--languages", "deu_Latn", "--items", 4, "--output", tmp_path / "train")
    task = load_task(str(tmp_path / "train" / "task.yaml"))
    assert task.read_as == {}
    english, german = load_items(task, "train"), load_items(task, "train", "deu_Latn")
    assert [(item.id, item.label) for item in english] == [(item.id, item.label) for item in german]
    assert len(english) == 4
    launch(place, "round-trip", "--languages", "deu_Latn", "--items", 4, "--output", tmp_path / "trip")
    task = load_task(str(tmp_path / "trip" / "task.yaml"))
    assert [item.id for item in load_items(task, "train")] == [item.id for item in english]
    assert len(load_items(task, "valid")) == 3


def test_a_language_without_a_tag_is_one_line(place, tmp_path):
    done = launch(place, "test", "--languages", "jpn_Jpan", "--output", tmp_path / "new", status=2)
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert "jpn_Jpan" in line
    assert not (tmp_path / "new").exists()


def test_a_command_translates(place, tmp_path):
    given = ["--task", str(place / "task" / "colours.yaml"), "--mt", "command:cat", "--cache", str(tmp_path / "cache")]
    given += ["--languages", "deu_Latn", "--items", "4"]
    main(["train", *given, "--output", str(tmp_path / "new")])
    task = load_task(str(tmp_path / "new" / "task.yaml"))
    assert load_items(task, "train", "deu_Latn") == load_items(task, "train")
    with pytest.raises(UserError, match=r"^--mt=command:cat: a command has no revision, beams or longest sentence"):
        main(["train", *given, "--beams", "2", "--output", str(tmp_path / "other")])
    slow = [*given[:3], "command:sleep 60", *given[4:], "--time-out", "0.5", "--output", str(tmp_path / "other")]
    with pytest.raises(
        UserError, match=r"^--mt=command:sleep 60: gave no answer within 0\.5 seconds; .*raise --time-out"
    ):
        main(["train", *slow])
    with pytest.raises(UserError, match=r"^--time-out=3: has no effect without --mt command:"):
        main(
            ["train", *given[:3], str(place / "mt"), *given[4:], "--time-out", "3", "--output", str(tmp_path / "other")]
        )
