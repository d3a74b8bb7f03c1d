"""What ranks agree on."""

import time
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from mtllm_ds.cluster.agree import patiently, union_over_ranks
from mtllm_ds.cluster.launch import COLLECTIVE_TIMEOUT, join_cluster, set_collective_timeout
from mtllm_ds.errors import UserError
from tests.distributed.ranks import RankError, ranks


def unite(values_by_rank, known):
    """On a rank of a pool."""
    cluster = join_cluster()
    return union_over_ranks(set(values_by_rank[cluster.rank]), known, cluster.device)


def test_sets_of_all_ranks_unite():
    assert ranks(2).run(unite, [[1, 2], [2, 7]], set()) == [{1, 2, 7}] * 2
    assert ranks(2).run(unite, [[1], []], {1}) == [{1}] * 2
    assert union_over_ranks({3}, set(), torch.device("cpu")) == {3}


def wait_for_the_slow(fails):
    """On a rank of a pool, whose collectives have a second: rank 1 takes longer, or is wrong in the end."""
    cluster = join_cluster()
    set_collective_timeout(timedelta(seconds=1))

    def work():
        if cluster.rank:
            time.sleep(2.5)
            if fails:
                raise UserError("wrong")
        return cluster.rank

    try:
        return patiently(work, cluster.device)
    finally:
        assert dist.group.WORLD._get_backend(cluster.device).options._timeout == COLLECTIVE_TIMEOUT


def test_whoever_is_done_waits_for_one_that_takes_longer_than_a_collective_may():
    assert ranks(2).run(wait_for_the_slow, False) == [0, 1]
    with pytest.raises(RankError, match="UserError: wrong"):
        ranks(2).run(wait_for_the_slow, True)
