"""Rows of all ranks: everybody's, in one order, this rank's own with their graph."""

import pytest
import torch

from mtllm_ds.cluster.gather import rows_of_all_ranks
from mtllm_ds.cluster.launch import join_cluster
from tests.distributed.ranks import ranks

ROWS = {0: (2, 0, 1), 1: (0, 3, 0), 2: (0, 0, 0)}
"""By rank: rows of each of its three parts."""


def rows_from(rank):
    return [torch.full((count, 2, 4), 10.0 * rank + part) for part, count in enumerate(ROWS[rank])]


def gathered():
    """On a rank of a pool: what it sees; its own rows are those that it gave."""
    rank = join_cluster().rank
    own = [rows.requires_grad_() for rows in rows_from(rank)]
    found = rows_of_all_ranks(own)
    assert all(of_ranks[rank] is rows for of_ranks, rows in zip(found, own, strict=True))
    return [[rows.detach().tolist() for rows in of_ranks] for of_ranks in found]


@pytest.mark.parametrize("world_size", [2, 3])
def test_every_rank_sees_the_same_rows(world_size):
    expected = [[rows_from(rank)[part].tolist() for rank in range(world_size)] for part in range(3)]
    assert ranks(world_size).run(gathered) == [expected] * world_size


def test_alone_nothing_travels():
    own = rows_from(0)
    assert [of_ranks[0] is rows for of_ranks, rows in zip(rows_of_all_ranks(own), own, strict=True)] == [True] * 3
