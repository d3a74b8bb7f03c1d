"""Counts of collectives are those of the calls that were made, whoever made them."""

import torch
import torch.distributed as dist

from mtllm_ds.cluster.agree import any_says, sum_over_ranks
from mtllm_ds.cluster.collectives import COUNTS, count_deepspeed, ring_bytes
from mtllm_ds.cluster.launch import join_cluster
from tests.distributed.ranks import ranks


def counted():
    """On a rank: (calls, payload bytes, sent bytes) of some collectives, and what they gave."""
    from deepspeed import comm

    cluster = join_cluster()
    for _ in range(2):  # more than once does nothing more
        count_deepspeed()
    alone = dist.new_group([cluster.rank], use_local_synchronization=True)
    before = COUNTS.copy()
    own, whole = torch.full((5,), float(cluster.rank)), torch.empty(10)
    comm.all_gather_into_tensor(whole, own)
    work = comm.all_gather_into_tensor(torch.empty(10, dtype=torch.bfloat16), own.bfloat16(), async_op=True)
    work.wait()
    comm.reduce_scatter_tensor(torch.empty(5), whole)
    comm.all_reduce(own, comm.ReduceOp.SUM, alone)
    comm.all_reduce(own)
    said = any_says(cluster.rank == 1, cluster.device)
    total = sum_over_ranks(torch.ones(3))
    found = COUNTS.since(before)
    return dict(found.calls), dict(found.payload_bytes), dict(found.sent_bytes), whole.tolist(), said, total.tolist()


def test_bytes_and_calls_by_kind():
    for calls, payload, sent, whole, said, total in ranks(2).run(counted):
        assert calls == {"all_gather": 2, "reduce_scatter": 1, "all_reduce": 2, "agreement": 2}
        assert payload == {"all_gather": 40 + 20, "reduce_scatter": 40, "all_reduce": 20 + 20, "agreement": 8 + 12}
        # Half of a gather goes out; of a sum between two ranks all; of one rank's alone nothing.
        assert sent == {"all_gather": 30, "reduce_scatter": 20, "all_reduce": 20, "agreement": 20}
        assert (whole, said, total) == ([0.0] * 5 + [1.0] * 5, True, [2.0] * 3)


def test_a_ring_sends_all_but_its_own_share():
    assert [ring_bytes(kind, 800, 8) for kind in ("all_gather", "reduce_scatter", "all_reduce")] == [700, 700, 1400]
