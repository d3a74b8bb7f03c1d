"""Rows padded as `torch.nn.utils.rnn.pad_sequence` does it, and dealt out once each."""

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

from mtllm_ds.data.text.padding import longest_first, padded

ROWS = [[5, 6, 7], [8], [9, 0, 3, 4, 2], [1, 1]]


def test_rows_are_padded_on_the_right():
    ids, mask = padded(ROWS, pad_id=0)
    assert torch.equal(ids, pad_sequence([torch.tensor(row) for row in ROWS], batch_first=True))
    assert mask.sum(1).tolist() == [3, 1, 5, 2]  # an id like that of the padding is a token
    assert ids.dtype == mask.dtype == torch.int64


@pytest.mark.parametrize("multiple", [2, 5, 8])
def test_widths_are_multiples(multiple):
    ids, mask = padded(ROWS, 1, multiple)
    assert ids.shape == mask.shape == (4, {2: 6, 5: 5, 8: 8}[multiple])
    assert (ids[mask == 0] == 1).all()


def test_every_row_comes_once_the_longest_first():
    lengths = [3, 9, 1, 9, 5]
    batches = list(longest_first(lengths, 2))
    assert batches == [[1, 3], [4, 0], [2]]
    assert list(longest_first([], 2)) == []
