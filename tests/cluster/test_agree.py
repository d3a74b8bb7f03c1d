"""What ranks agree on."""

import torch

from mtllm_ds.cluster.agree import union_over_ranks
from mtllm_ds.cluster.launch import join_cluster
from tests.distributed.ranks import ranks


def unite(values_by_rank, known):
    """On a rank of a pool."""
    cluster = join_cluster()
    return union_over_ranks(set(values_by_rank[cluster.rank]), known, cluster.device)


def test_sets_of_all_ranks_unite():
    assert ranks(2).run(unite, [[1, 2], [2, 7]], set()) == [{1, 2, 7}] * 2
    assert ranks(2).run(unite, [[1], []], {1}) == [{1}] * 2
    assert union_over_ranks({3}, set(), torch.device("cpu")) == {3}
