import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mtllm_ds.data.shards.blocks import BlockError, Ragged, decode_block, encode_block, ids_dtype, narrowest_unsigned

rows_of_ids = st.lists(st.lists(st.integers(0, 65_535), max_size=20), max_size=12)


@given(rows=rows_of_ids, deflate=st.booleans(), data=st.data())
@settings(max_examples=100)
def test_what_was_written_is_read(rows, deflate, data):
    dtype = data.draw(st.sampled_from(["<f2", "<f4", "<i8", "<u1", "<u4"]))
    dense = data.draw(hnp.arrays(dtype, (len(rows), 3)))
    block = {"ids": Ragged.from_rows(rows, "<u2"), "targets": dense, "label": np.arange(len(rows))}
    encoded = encode_block(block, deflate=deflate)
    read = decode_block(encoded)
    assert list(read) == list(block)
    assert [list(read["ids"][i]) for i in range(len(rows))] == rows
    assert read["targets"].tobytes() == dense.tobytes()
    assert read["label"].tolist() == list(range(len(rows)))
    assert encode_block(read, deflate=deflate) == encoded


def test_ids_take_two_bytes_where_the_vocabulary_fits():
    assert ids_dtype(65_536).itemsize == 2
    assert ids_dtype(65_537).itemsize == 4
    rows = [list(range(100))] * 256
    size = len(
        encode_block({"a": Ragged.from_rows(rows, ids_dtype(65_536)), "b": Ragged.from_rows(rows, ids_dtype(256_206))})
    )
    assert size < 1.01 * 256 * 100 * (2 + 4) + 600


@pytest.mark.parametrize(("largest", "itemsize"), [(0, 1), (255, 1), (256, 2), (65_535, 2), (65_536, 4), (1 << 33, 8)])
def test_lengths_are_narrow(largest, itemsize):
    assert narrowest_unsigned(np.array([0, largest])).itemsize == itemsize


def test_anything_but_a_whole_block_is_refused():
    encoded = encode_block({"ids": Ragged.from_rows([[1, 2], [3]], "<u2")})
    for damaged in (
        b"",
        encoded[:5],
        encoded[:-1],
        encoded + b"x",
        b"X" + encoded[1:],
        encoded.replace(b"<u2", b"|O2"),
    ):
        with pytest.raises(BlockError):
            decode_block(damaged)
