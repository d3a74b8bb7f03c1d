"""Where a dialogue comes from, whoever wrote its record."""

import json

import pytest

from mtllm_ds.data.shards.dialogue_view import record_lines


@pytest.mark.parametrize(
    "history", ["by hand", ["a", 1], 3, {"made_of": "text"}, {"made_of": ["a"], "by": "me"}, {"made_of": None}]
)
def test_a_users_own_history_is_shown_as_it_is(history):
    assert record_lines({"id": "x", "history": history}) == ['id: "x"', f"pair: {json.dumps(history)}"]


def test_stages_of_a_pipeline_are_shown_one_by_one():
    made_of = {"instructions": {"id": "1"}, "answers": {"response": "é"}}
    assert record_lines({"history": {"made_of": made_of, "target": "spa_Latn"}}) == [
        'instructions: {"id": "1"}', 'answers: {"response": "é"}', 'pair: {"target": "spa_Latn"}'
    ]  # fmt: skip
    assert record_lines({"id": "x", "history": {}}) == ['id: "x"']
