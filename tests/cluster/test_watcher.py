"""Who is to blame when ranks hang, and which time counts."""

import pytest

from mtllm_ds.cluster.watcher import POLL_SECONDS, Clock, verdict


def report(rank, **more):
    return {
        "kind": "hangs", "rank": rank, "time": 100.0 + rank, "phase": "taking step 3", "number": 9, "collectives": 50,
        "seconds": 20.0, "lifeless_seconds": 0.4, "process": "S", **more,
    }  # fmt: skip


def blamed(*reports, world_size=3):
    return verdict({one["rank"]: one for one in reports}, world_size)


def test_the_rank_that_died_first_is_to_blame():
    culprit, why = blamed(report(0), report(1, kind="died", time=90.0), report(2, kind="failed", time=91.0))
    assert culprit == 1
    assert "it died there" in why


def test_no_word_of_a_rank_means_that_its_machine_is_lost():
    culprit, why = blamed(report(0), report(1))
    assert culprit == 2
    assert "no word of rank 2" in why
    assert "no word of rank 1, 2, 3, 4, 5, 6, 7, 8, ...:" in blamed(report(0), world_size=64)[1]


@pytest.mark.parametrize(("process", "why"), [("T", "stopped by a signal"), ("S", "held by a call")])
def test_a_rank_without_a_sign_of_life(process, why):
    culprit, said = blamed(report(0), report(1, lifeless_seconds=19.0, process=process, collectives=99), report(2))
    assert culprit == 1
    assert why in said


def test_the_rank_with_the_fewest_collectives_keeps_the_others_waiting():
    assert blamed(report(0), report(1), report(2, collectives=49)) == (
        2,
        "it has begun 49 collectives, another rank 50",
    )
    assert blamed(report(0, number=8, collectives=99), report(1), report(2))[0] == 0


def test_where_all_wait_alike_it_is_the_network():
    culprit, why = blamed(report(0), report(1), report(2))
    assert culprit is None
    assert "network" in why


def test_time_counts_since_the_last_change_and_only_while_awake():
    clock = Clock()
    start = clock._last
    for tick in range(1, 11):
        clock.look({"phase": 1, "beat": tick}, start + tick * POLL_SECONDS)
    assert clock.seconds["phase"] == pytest.approx(9 * POLL_SECONDS)
    assert clock.seconds["beat"] == 0.0
    clock.look({"phase": 1, "beat": 10}, start + 3600)  # the whole job was suspended
    assert clock.seconds["phase"] < 16 * POLL_SECONDS
    clock.look({"phase": 2, "beat": 10}, start + 3601)
    assert clock.seconds["phase"] == 0.0
