"""Numbers on the command line of every launcher: one that cannot be is one line."""

import sys

import pytest

from launchers import evaluate, export, prepare, train, translate
from mtllm_ds.errors import UserError
from tests.launchers.test_evaluate import refused

COUNTS = [
    (evaluate.main, "model", ("--limit", "--batch-size")),
    (evaluate.main, "retrieval", ("--limit", "--batch-size")),
    (evaluate.main, "baseline", ("--train-items",)),
    (translate.main, "test", ("--items", "--items-per-language", "--batch-size", "--beams", "--max-length")),
    (prepare.main, "shards", ("--block-samples", "--shard-megabytes", "--max-length")),
    (prepare.main, "task", ("--train-items", "--block-samples", "--max-length")),
    (prepare.main, "teacher-targets", ("--batch-size",)),
    (prepare.main, "show", ("--samples",)),
    (train.main, "", ("--world-size",)),
]
FROM_0 = [
    (prepare.main, "shards", "--num-workers"),
    (prepare.main, "show", "--block"),
    (export.main, "run", "--step"),
]
BAD = [
    *((main, command, flag, given, 1) for main, command, flags in COUNTS for flag in flags for given in ("0", "-1")),
    *((main, command, flag, "-1", 0) for main, command, flag in FROM_0),
    (evaluate.main, "model", "--limit", "ten", 1),
]


@pytest.mark.parametrize(("main", "command", "flag", "given", "least"), BAD)
def test_a_number_that_cannot_be(monkeypatch, main, command, flag, given, least):
    monkeypatch.setattr(sys, "argv", ["launcher.py", *filter(None, [command]), flag, given])
    with pytest.raises(UserError) as caught:
        main()
    assert f"argument {flag}: '{given}' is no whole number of at least {least}; see --help" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_process_ends_with_status_2_and_one_line():
    assert "--limit: '0' is no whole number" in refused("model", "--limit", 0)
    assert "the following arguments are required" in refused("model")
