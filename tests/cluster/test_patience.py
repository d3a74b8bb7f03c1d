"""Slow ranks are waited for, dead ones are not."""

import time
from datetime import timedelta

import pytest
import torch

from mtllm_ds.cluster import patience
from mtllm_ds.cluster.launch import COLLECTIVE_TIMEOUT, join_cluster, set_collective_timeout
from mtllm_ds.cluster.patience import patiently
from mtllm_ds.errors import UserError
from tests.distributed.ranks import RankError, ranks

COLLECTIVE_SECONDS, SLOW_SECONDS = 3.0, 4.5


def wait_for_the_slow(mistake):
    """On a rank of a pool, whose collectives have few seconds: rank 1 takes longer, or is wrong in the end."""
    cluster = join_cluster()
    set_collective_timeout(timedelta(seconds=COLLECTIVE_SECONDS))

    def work():
        if cluster.rank:
            time.sleep(SLOW_SECONDS)
            if mistake is not None:
                raise mistake
        return cluster.rank

    try:
        return patiently(work, cluster.device)
    finally:
        set_collective_timeout(COLLECTIVE_TIMEOUT)


def test_whoever_is_done_waits_for_one_that_takes_longer_than_a_collective_may():
    assert ranks(2).run(wait_for_the_slow, None) == [0, 1]


@pytest.mark.parametrize(("mistake", "told"), [(UserError("wrong"), "UserError: wrong"), (KeyError("bug"), "KeyError")])
def test_a_slow_rank_that_fails_ends_all(mistake, told):
    with pytest.raises(RankError, match=told) as caught:
        ranks(2).run(wait_for_the_slow, mistake)
    assert caught.value.errors[0][0] == "PeerFailedError"


def wait_for_the_dead():
    """On a rank of a pool: rank 1 says no more that it lives, and comes to no end."""
    cluster, before = join_cluster(), (patience._BEAT_SECONDS, patience._LOST_SECONDS)
    patience._BEAT_SECONDS, patience._LOST_SECONDS = 0.1, 1.5

    def work():
        if cluster.rank:
            patience._BEAT_SECONDS = 100.0
            time.sleep(SLOW_SECONDS)
            raise RuntimeError("what a killed process cannot even say")

    try:
        return patiently(work, cluster.device)
    finally:
        patience._BEAT_SECONDS, patience._LOST_SECONDS = before


def test_whoever_is_done_waits_for_no_dead_rank():
    with pytest.raises(RankError) as caught:
        ranks(2).run(wait_for_the_dead)
    told, dead = caught.value.errors
    assert told[0] == "UserError"
    assert told[1].startswith("rank 1: no sign of life")
    assert dead[0] == "RuntimeError"


def test_a_process_that_is_alone_waits_for_nobody():
    assert patiently(lambda: 7, torch.device("cpu")) == 7
