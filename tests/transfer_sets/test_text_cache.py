"""Texts that outlive a killed process, whatever it left unfinished."""

import pytest

from mtllm_ds.transfer_sets.text_cache import TextCache


@pytest.mark.parametrize("cut", range(1, 90, 4))
def test_a_torn_end_costs_what_was_torn(tmp_path, cut):
    """Cut anywhere, also within a character or before a brace; then the same process writes on behind the torn line."""
    cache = TextCache(tmp_path, {"model": "m"})
    cache.add([("eins", "one"), ("zwei", "deux {été} 日本}")])
    (path,) = tmp_path.rglob("*.jsonl")
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    again = TextCache(tmp_path, {"model": "m"})
    assert "zwei" not in again or again["zwei"] == "deux {été} 日本}"
    assert "eins" in again
    assert again["eins"] == "one"
    again.add([("drei", "three"), ("vier", "four")])
    third = TextCache(tmp_path, {"model": "m"})
    assert third["eins"] == "one"
    assert third["vier"] == "four"
