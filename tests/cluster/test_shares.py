"""Weights in equal shares come back whole on every rank."""

import pytest
import torch

from mtllm_ds.cluster.launch import join_cluster
from mtllm_ds.cluster.shares import Shares
from tests.distributed.ranks import ranks

SHAPES = ((3, 5), (7,), (), (2, 2, 2))


def made():
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=draw) for shape in SHAPES]


def gather():
    """On a rank of a pool: what comes back, and how much this rank held."""
    device = join_cluster().device
    shares = Shares(made(), device)
    return shares.gathered(), len(shares._own)


@pytest.mark.parametrize("world_size", [1, 2])
def test_every_rank_gets_the_whole_and_holds_its_share(world_size):
    for found, held in ranks(world_size).run(gather):
        assert all(torch.equal(one, other) for one, other in zip(found, made(), strict=True))
        assert held == -(-31 // world_size)
