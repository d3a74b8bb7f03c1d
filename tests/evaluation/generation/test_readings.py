"""What responses are worth equals sums by hand in float64; intervals are those of drawn groups."""

import numpy as np
import pytest
import torch

from mtllm_ds.errors import UserError
from mtllm_ds.evaluation.generation.readings import cross_entropies, estimate, readings


class Reader:
    """Tells the logits that it is given, a row a token."""

    def __init__(self, logits):
        self._logits = logits

    def states_before(self, prompts, responses, batch_size=8):
        return self._logits

    def log_probs(self, states):
        return states.log_softmax(-1)


def test_sums_are_those_by_hand_in_float64():
    rng = np.random.default_rng(0)
    responses = [[1, 4], [0, 2, 3]]
    own, teacher = ([rng.normal(size=(len(r), 5)).astype(np.float32) for r in responses] for _ in range(2))
    tensors = [torch.from_numpy(rows) for rows in own]
    known = [torch.from_numpy(rows) for rows in teacher]
    found = readings(Reader(tensors), tensors, responses, Reader(known), known)
    for place, response in enumerate(responses):
        p, q = (
            np.exp(x[place].astype(float)) / np.exp(x[place].astype(float)).sum(1, keepdims=True)
            for x in (teacher, own)
        )
        assert found.num_tokens[place] == len(response)
        assert found.nll[place] == pytest.approx(-np.log(q[range(len(response)), response]).sum(), abs=1e-5)
        assert found.kl[place] == pytest.approx((p * np.log(p / q)).sum(), abs=1e-5)
    alone = cross_entropies(Reader(tensors), [[9], [9]], responses, batch_size=2)
    assert alone.tolist() == found.nll.tolist()


def test_a_teacher_diverges_from_itself_by_nothing():
    logits = [torch.randn(4, 7, generator=torch.Generator().manual_seed(0))]
    assert readings(Reader(logits), logits, [[0, 1, 2, 3]], Reader(logits), logits).kl[0] == pytest.approx(0, abs=1e-6)


def test_another_vocabulary_is_refused():
    own, other = [torch.zeros(1, 7)], [torch.zeros(1, 8)]
    with pytest.raises(UserError, match=r"^model: has a vocabulary of 7, the untouched LLM of 8; name the LLM"):
        readings(Reader(own), own, [[0]], Reader(other), other)


def test_an_estimate_weighs_tokens_and_draws_groups():
    sums, tokens = np.array([2.0, 8.0, 1.0]), np.array([1, 4, 2])
    found = estimate(sums, tokens, ["a", "a", "b"])
    assert found.mean == pytest.approx(11 / 7)
    # Of two groups four draws are possible: a a, a b, b a, b b.
    assert (found.low, found.high) == (pytest.approx(0.5), pytest.approx(2.0))
    alone = estimate(sums, tokens, ["a", "a", "a"])
    assert alone.low == alone.high == pytest.approx(11 / 7)
