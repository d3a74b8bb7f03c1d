"""Retrieval against a loop over plain cosines."""

import json
import lzma

import numpy as np
import pytest

from mtllm_ds.errors import UserError
from mtllm_ds.evaluation.retrieval import read_parallel, retrieve, score_parallel


def looped(left, right, texts):
    """Accuracy, mean reciprocal rank and margin of one direction, from single cosines."""
    left, right = (side - side.mean(0) for side in (left, right))
    ranks, margins = [], []
    for i, query in enumerate(left):
        cosine = {}
        for j, text in enumerate(texts):
            cosine.setdefault(text, query @ right[j] / np.linalg.norm(query) / np.linalg.norm(right[j]))
        others = [value for text, value in cosine.items() if text != texts[i]]
        ranks.append(1 + sum(value >= cosine[texts[i]] for value in others))
        margins.append(cosine[texts[i]] - max(others))
    return np.mean(np.array(ranks) == 1), np.mean(1 / np.array(ranks)), np.mean(margins)


@pytest.mark.parametrize("block", [1, 7, 1024])
def test_both_directions_equal_a_loop(block):
    rng = np.random.default_rng(0)
    english = [f"e{n % 25}" for n in range(30)]  # five texts occur twice
    foreign = [f"f{n}" for n in range(30)]
    meaning = {text: rng.normal(size=8) for text in english}
    right = np.stack([meaning[text] for text in english]) + 4.0
    left = right @ rng.normal(size=(8, 8)) * 0.1 + right + 0.9 * rng.normal(size=(30, 8)) - 7.0
    vectors = {"left": left, "right": right}
    scores = score_parallel(foreign, english, lambda _: vectors["left"], lambda _: vectors["right"])
    for found, expected in (
        (scores.forward, looped(left, right, english)),
        (scores.backward, looped(right, left, foreign)),
    ):
        assert (found.accuracy, found.mean_reciprocal_rank, found.margin) == pytest.approx(expected)
    assert 0.3 < scores.forward.accuracy < 1
    unit = [side - side.mean(0) for side in (left, right)]
    unit = [side / np.linalg.norm(side, axis=1, keepdims=True) for side in unit]
    in_blocks = retrieve(*unit, english, block=block)
    assert in_blocks.mean_reciprocal_rank == scores.forward.mean_reciprocal_rank
    assert in_blocks.margin == pytest.approx(scores.forward.margin)


def test_a_common_offset_does_not_help_or_hurt():
    rng = np.random.default_rng(1)
    texts, vectors = [f"t{n}" for n in range(20)], rng.normal(size=(20, 5))
    scores = score_parallel(texts, texts, lambda _: vectors + 100.0, lambda _: vectors - 50.0)
    assert scores.forward.accuracy == scores.backward.accuracy == 1.0
    assert scores.forward.mean_reciprocal_rank == 1.0
    assert scores.flat()["num_pairs"] == 20


def test_vectors_that_are_all_alike_find_nothing():
    texts = [f"t{n}" for n in range(20)]
    scores = score_parallel(texts, texts, lambda _: np.ones((20, 5)), lambda _: np.ones((20, 5)))
    assert scores.forward.accuracy == 0.0
    assert scores.forward.mean_reciprocal_rank == pytest.approx(1 / 20)
    assert scores.forward.margin == 0.0


def test_files(tmp_path):
    rows = [{"text": "eins", "text_en": "one"}, {"text": "zwei", "text_en": "two"}]
    packed = tmp_path / "pairs.jsonl.xz"
    packed.write_bytes(lzma.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    assert read_parallel(packed, "deu_Latn", "text", "text_en") == (["eins", "zwei"], ["one", "two"])
    table = tmp_path / "pairs.tsv"
    table.write_text("one\teins\ntwo\tzwei\n")
    assert read_parallel(table, "deu_Latn", "2", "1") == (["eins", "zwei"], ["one", "two"])
    assert read_parallel(table, "deu_Latn", "2", "1", limit=3) == (["eins", "zwei"], ["one", "two"])
    with pytest.raises(UserError, match="1 pairs read, retrieval needs at least two"):
        read_parallel(table, "deu_Latn", "2", "1", limit=1)
    table.write_text("one\teins\n")
    with pytest.raises(UserError, match="at least two"):
        read_parallel(table, "deu_Latn", "2", "1")
    with pytest.raises(UserError, match="no field 'text'"):
        read_parallel(table, "deu_Latn", "text", "1")
    with pytest.raises(UserError, match="'ell_Grek'"):
        read_parallel(table, "ell_Latn", "2", "1")
