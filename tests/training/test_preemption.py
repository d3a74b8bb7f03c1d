"""Whom a signal still reaches, and when."""

import os
import signal

import pytest

from mtllm_ds.training import runs
from mtllm_ds.training.preemption import EXIT_PREEMPTED

CAUGHT = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


@pytest.fixture
def handlers():
    before = {number: signal.getsignal(number) for number in CAUGHT}
    yield before
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("status", [0, EXIT_PREEMPTED])
def test_what_a_launcher_sends_to_ranks_that_leave_does_not_change_their_status(handlers, monkeypatch, status):
    monkeypatch.setattr(runs, "join_cluster", lambda: None)
    monkeypatch.setattr(runs, "run_seeds", lambda *_: status)

    def leave():
        if status:
            for number in CAUGHT:
                os.kill(os.getpid(), number)

    monkeypatch.setattr(runs, "leave_cluster", leave)
    assert runs.train(None, False) == status
    assert status or {number: signal.getsignal(number) for number in CAUGHT} == handlers
