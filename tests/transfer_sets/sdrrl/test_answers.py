"""What is kept of an answer that was cut off."""

import pytest

from mtllm_ds.transfer_sets.sdrrl.answers import whole_sentences


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("One is whole. Two is whole. Three is", "One is whole. Two is whole."),
        ("A list:\n1. Open it.\n2. Close it\n3. Sa", "A list:\n1. Open it.\n2. Close it"),
        ("It ends. Nobody knows.", "It ends."),
        ("only a beginning of", ""),
        ("", ""),
        ("See:\n```\nx = 1\ny = 2\nz", ""),
        ("See:\n```\nx = 1\n```\nThat is all. And", "See:\n```\nx = 1\n```\nThat is all."),
    ],
)
def test_whole_sentences(text, whole):
    assert whole_sentences(text) == whole
