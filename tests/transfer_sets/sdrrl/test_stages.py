"""Stages on disk: whole or in parts, never another's."""

import json

import pytest

from mtllm_ds.errors import UserError
from mtllm_ds.transfer_sets.sdrrl.stages import Stage, read_rows

ROWS = [{"id": "a", "text": "é\u2028x"}, {"id": "b", "text": "y"}]


def test_rows_wait_in_parts_until_the_stage_is_done(tmp_path):
    stage = Stage(tmp_path, "answers", {"seed": 0})
    assert not stage.is_done
    assert stage.begun() == {}
    stage.add(ROWS[:1])
    again = Stage(tmp_path, "answers", {"seed": 0})
    assert again.begun() == {"a": ROWS[0]}
    again.add(ROWS[1:])
    again.finish(ROWS, {"kept": 2})
    done = Stage(tmp_path, "answers", {"seed": 0})
    assert (done.is_done, done.rows, done.counts) == (True, ROWS, {"kept": 2})
    assert read_rows(done.path) == ROWS
    assert sorted(path.name for path in tmp_path.iterdir()) == ["answers.json", "answers.jsonl"]


@pytest.mark.parametrize("torn", ['{"id": "b", "te', '{"id": "b", "text": "y"}'])
def test_a_line_that_a_killed_process_left_unfinished_costs_no_other(tmp_path, torn):
    stage = Stage(tmp_path, "answers", {})
    stage.add(ROWS[:1])
    (part,) = (tmp_path / ".answers").glob("*.jsonl")
    with part.open("a") as stream:
        stream.write(torn)
    stage.add([{"id": "c"}])  # a new process may have the number of the killed one
    assert {"a", "c"} <= set(stage.begun())
    assert all(json.dumps(row) for row in stage.begun().values())


@pytest.mark.parametrize("done", [False, True])
def test_other_settings_are_one_line(tmp_path, done):
    stage = Stage(tmp_path, "answers", {"seed": 0, "sampling": {"top_p": 1.0}})
    if done:
        stage.finish(ROWS, {})
    with pytest.raises(
        UserError, match=r"its answers were made with another sampling \(.*1.0.*, not .*0.5.*\); choose"
    ) as raised:
        Stage(tmp_path, "answers", {"seed": 0, "sampling": {"top_p": 0.5}})
    assert "\n" not in str(raised.value)
    with pytest.raises(UserError, match=r"another stop \(null, not \"x\"\)"):
        Stage(tmp_path, "answers", {"seed": 0, "sampling": {"top_p": 1.0}, "stop": "x"})


def test_what_no_stage_left_is_not_overwritten(tmp_path):
    theirs = tmp_path / "answers.jsonl"
    theirs.write_text("theirs")
    with pytest.raises(UserError, match=r"answers\.jsonl is there, and answers\.json, .* is not; choose another place"):
        Stage(tmp_path, "answers", {})
    (tmp_path / "answers.json").write_text('{"settings": 3}')
    with pytest.raises(UserError, match=r"answers\.json does not say what was made there"):
        Stage(tmp_path, "answers", {})
    assert theirs.read_text() == "theirs"


def test_a_stage_killed_between_its_rows_and_its_summary_goes_on(tmp_path):
    stage = Stage(tmp_path, "answers", {})
    stage.add(ROWS)
    stage.path.write_text("half of what was written")  # by a process that was killed before it wrote the summary
    again = Stage(tmp_path, "answers", {})
    again.finish([again.begun()[name] for name in "ab"], {})
    assert read_rows(again.path) == ROWS
