"""The closed-form start against numpy, and the alignment of two tokenizations by their characters."""

import numpy as np
import torch

from mtllm_ds.config.sections import ConnectorSettings
from mtllm_ds.data.text.tokenization import SegmentTokens
from mtllm_ds.models.connector import LeastSquares, build_connector
from mtllm_ds.models.connector_start import overlap_shares


def test_streamed_least_squares_equal_numpy():
    generator = np.random.default_rng(0)
    x, noise = generator.normal(size=(200, 5)), generator.normal(size=(200, 3))
    y = x @ generator.normal(size=(5, 3)) + 2.0 + 0.1 * noise
    sums = LeastSquares(5, 3)
    for start in range(0, 200, 64):
        sums.add(torch.from_numpy(x[start : start + 64]), torch.from_numpy(y[start : start + 64]))
    weight, bias = sums.solve(ridge=0.0)
    truth, *_ = np.linalg.lstsq(np.c_[x, np.ones(200)], y, rcond=None)
    np.testing.assert_allclose(weight.numpy(), truth[:5].T, rtol=1e-8)
    np.testing.assert_allclose(bias.numpy(), truth[5], rtol=1e-8)


def test_ridge_shrinks_and_keeps_the_means():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(50, 4, generator=generator) + 3, torch.randn(50, 2, generator=generator)
    sums = LeastSquares(4, 2)
    sums.add(x, y)
    weight, bias = sums.solve(ridge=1e9)
    assert weight.abs().max() < 1e-6
    torch.testing.assert_close(bias.float(), y.mean(0), atol=1e-5, rtol=1e-5)


def test_matched_outputs_have_the_mean_and_variance_of_the_targets():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(400, 4, generator=generator) + 3, 0.1 * torch.randn(400, 6, generator=generator) - 1
    sums = LeastSquares(4, 6)
    sums.add(x, y)
    weight, bias = sums.match(torch.randn(6, 4, generator=generator))
    out = x.double() @ weight.T + bias
    torch.testing.assert_close(out.mean(0), y.double().mean(0), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(out.var(0, correction=0).sum(), y.double().var(0, correction=0).sum(), rtol=1e-5, atol=0)


def test_tokens_share_characters():
    # "abcdef": left ab|cd|ef, right abc|def
    shares = overlap_shares(SegmentTokens([1, 2, 3], [2, 4, 6]), SegmentTokens([7, 8], [3, 6]))
    np.testing.assert_allclose(shares, [[1, 0], [0.5, 0.5], [0, 1]])


def test_a_token_without_characters_takes_its_neighbour():
    shares = overlap_shares(SegmentTokens([1, 2], [0, 3]), SegmentTokens([7, 8], [1, 3]))
    np.testing.assert_allclose(shares.sum(1), [1, 1])
    np.testing.assert_allclose(shares[0], [1, 0])


def test_the_start_depends_on_the_seed_alone():
    torch.manual_seed(1)
    first = build_connector(ConnectorSettings(type="mlp"), 4, 6, seed=3, dtype=torch.float32)
    torch.manual_seed(2)
    same = build_connector(ConnectorSettings(type="mlp"), 4, 6, seed=3, dtype=torch.float32)
    other = build_connector(ConnectorSettings(type="mlp"), 4, 6, seed=4, dtype=torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), same.parameters(), strict=True))
    assert not torch.equal(first[0].weight, other[0].weight)
    assert first(torch.zeros(1, 4)).shape == (1, 6)
