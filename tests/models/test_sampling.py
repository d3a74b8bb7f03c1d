"""Draws are those of a softmax, and depend on nothing but seed, position and logits."""

import pytest
import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from mtllm_ds.models.sampling import Sampler, Sampling, gumbel_noise

LOGITS = torch.tensor([2.0, 1.0, 0.0, -1.0, -3.0, 0.5])


def drawn(sampling, seeds, position=3, logits=LOGITS):
    scores = logits.expand(len(seeds), -1)
    return Sampler(sampling, seeds)(torch.zeros(len(seeds), position, dtype=torch.long), scores).argmax(-1)


@pytest.mark.parametrize(
    ("sampling", "warpers"),
    [
        (Sampling(), []),
        (Sampling(temperature=0.7), [TemperatureLogitsWarper(0.7)]),
        (Sampling(temperature=1.3, top_p=0.8), [TemperatureLogitsWarper(1.3), TopPLogitsWarper(0.8)]),
        (Sampling(top_k=3, min_p=0.2), [TopKLogitsWarper(3), MinPLogitsWarper(0.2)]),
    ],
)
def test_frequencies_are_those_of_transformers_own_distribution(sampling, warpers):
    count = 40_000
    warped = LogitsProcessorList(warpers)(torch.zeros(1, 3, dtype=torch.long), LOGITS[None].clone())
    expected = warped.softmax(-1)[0].double()
    found = torch.bincount(drawn(sampling, torch.arange(count)), minlength=len(LOGITS)).double() / count
    assert ((found - expected).abs() <= 4 * (expected * (1 - expected) / count).sqrt()).all()


def test_noise_is_gumbels_and_neither_rows_nor_positions_share_it():
    noise = gumbel_noise(torch.arange(200), 5, 1000)
    assert torch.isfinite(noise).all()
    assert abs(float(noise.mean()) - 0.5772) < 0.01
    assert abs(float(noise.var()) - torch.pi**2 / 6) < 0.02
    others = torch.stack([gumbel_noise(torch.arange(200), 6, 1000), gumbel_noise(torch.arange(200, 400), 5, 1000)])
    together = torch.stack([noise.flatten(), *others.flatten(1)])
    assert (torch.corrcoef(together) - torch.eye(3)).abs().max() < 0.01


def test_what_a_row_draws_does_not_depend_on_its_batch():
    seeds = torch.arange(50)
    torch.manual_seed(1)
    together = drawn(Sampling(top_p=0.9), seeds)
    torch.manual_seed(2)
    alone = torch.cat([drawn(Sampling(top_p=0.9), seeds[row : row + 1]) for row in range(50)])
    assert torch.equal(together, alone)
    assert not torch.equal(together, drawn(Sampling(top_p=0.9), seeds, position=4))
