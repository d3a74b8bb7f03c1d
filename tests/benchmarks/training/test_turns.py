"""Processes that take turns: one that dies is told, whenever that is."""

import os

import pytest

from benchmarks.training.turns import Group


def dies_in_its_first_turn(turns):
    turns.next()
    os._exit(1)


def test_a_rank_that_has_died_is_an_error_in_every_later_turn():
    group = Group(dies_in_its_first_turn, num_ranks=1, num_threads=1)
    try:
        group.wait_until_ready()
        for _ in range(2):
            with pytest.raises(RuntimeError, match=r"^rank 0 has died$"):
                group.take()
    finally:
        group.close()
