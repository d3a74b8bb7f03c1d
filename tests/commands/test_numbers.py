"""Numbers on every command line: one that cannot be is one line."""

import pytest

from mtllm_ds.commands import run_command
from mtllm_ds.errors import UserError
from tests.commands.test_evaluate import refused

COUNTS = [
    ("evaluate", "model", ("--limit", "--batch-size")),
    ("evaluate", "retrieval", ("--limit", "--batch-size")),
    ("evaluate", "baseline", ("--train-items",)),
    ("translate", "test", ("--items", "--items-per-language", "--batch-size", "--beams", "--max-length")),
    ("prepare", "shards", ("--block-samples", "--shard-megabytes", "--max-length")),
    ("prepare", "task", ("--train-items", "--block-samples", "--max-length")),
    ("prepare", "teacher-targets", ("--batch-size",)),
    ("prepare", "show", ("--samples",)),
    ("train", "", ("--world-size",)),
]
FROM_0 = [
    ("prepare", "shards", "--num-workers"),
    ("prepare", "show", "--block"),
    ("export", "run", "--step"),
]
BAD = [
    *(
        (command, subcommand, flag, given, 1)
        for command, subcommand, flags in COUNTS
        for flag in flags
        for given in ("0", "-1")
    ),
    *((command, subcommand, flag, "-1", 0) for command, subcommand, flag in FROM_0),
    ("evaluate", "model", "--limit", "ten", 1),
]


@pytest.mark.parametrize(("command", "subcommand", "flag", "given", "least"), BAD)
def test_a_number_that_cannot_be(command, subcommand, flag, given, least):
    with pytest.raises(UserError) as caught:
        run_command([command, *filter(None, [subcommand]), flag, given])
    assert f"argument {flag}: '{given}' is no whole number of at least {least}; see --help" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_process_ends_with_status_2_and_one_line():
    assert "--limit: '0' is no whole number" in refused("model", "--limit", 0)
    assert "the following arguments are required" in refused("model")
