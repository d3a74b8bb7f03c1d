"""Draws on tensors are the draws on integers."""

import torch

from mtllm_ds.draws import seed_of
from mtllm_ds.tensor_draws import seeds_of

CPU = torch.device("cpu")


def test_every_element_is_the_seed_of_its_integers():
    first = torch.tensor([0, 1, -1, 2**63 - 1, -(2**63)])
    second = torch.tensor([[3], [2**40], [-7]])
    found = seeds_of(5, first, second, device=CPU)
    assert found.shape == (3, 5)
    expected = [[seed_of(5, one, other) for one in first.tolist()] for other in second[:, 0].tolist()]
    assert found.tolist() == expected
    assert seeds_of(2**63 - 1, device=CPU).item() == seed_of(2**63 - 1)


def test_they_are_spread_evenly():
    drawn = seeds_of(1, torch.arange(20000), device=CPU) % 10
    assert (torch.bincount(drawn, minlength=10) - 2000).abs().max() < 200
