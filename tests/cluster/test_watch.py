"""Real watchers: beside a child that really hangs, and beside stand-ins of several ranks (`sleep`, and the memory in which a rank
says what it does)."""

import contextlib
import errno
import mmap
import os
import signal
import subprocess
import sys
import time
from datetime import timedelta

import pytest

from mtllm_ds.cluster import watch, watcher
from mtllm_ds.cluster.launch import COLLECTIVE_TIMEOUT
from mtllm_ds.cluster.watch import Watch
from mtllm_ds.errors import PeerFailedError, UserError

LIMITS = dict.fromkeys(("start", "data", "prepare", "step", "log", "validation", "save"))
BOUND = 1.0
LONG = watcher.GRACE_SECONDS + 20  # for what comes sooner or is a failure
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

HANGING = """
import sys, time
from pathlib import Path
from mtllm_ds.cluster.watch import Watch
watch = Watch(Path(sys.argv[1]), {**dict.fromkeys(("start", "step")), "data": 1.0})
watch.started()
watch.enter("data", 7)
print(watch._process.pid, flush=True)
time.sleep(600)
"""


class Rank:
    """A process and its watcher; what the watcher says goes to a file."""

    def __init__(self, folder, rank=0, world_size=1):
        self.process = subprocess.Popen(["sleep", "600"])
        handle = os.memfd_create("rank")
        os.ftruncate(handle, watcher.LAYOUT.size)
        self.memory = mmap.mmap(handle, watcher.LAYOUT.size)
        self.values = {"state": watcher.RUNNING, "closed": 0, "beats": 0, "number": 1, "collectives": 9, "limit": BOUND}
        self.say()
        folder.mkdir(exist_ok=True)
        self.report = folder / "told" / f"rank-{rank:05d}.json"
        self.log = folder / f"log-{rank}.txt"
        ends = os.pidfd_open(self.process.pid)
        numbers = [handle, ends, self.process.pid, rank, world_size]
        with self.log.open("w") as log:
            self.watcher = subprocess.Popen(
                [sys.executable, "-S", "-E", watcher.__file__, *map(str, numbers), str(folder / "told")],
                pass_fds=[handle, ends], stderr=log,
            )  # fmt: skip
        os.close(handle)
        os.close(ends)

    def say(self, **changes):
        self.values |= changes
        watcher.LAYOUT.pack_into(self.memory, 0, *self.values.values(), b"taking step 3")

    def said(self):
        return self.log.read_text()

    def wait(self):
        self.watcher.wait(LONG)
        return self.said()

    def alive(self):
        return self.process.poll() is None

    def end(self):
        for process in (self.process, self.watcher):
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()


@pytest.fixture
def ranks(tmp_path):
    """Makes ranks, and ends what is left of them."""
    made = []

    def make(world_size):
        new = [Rank(tmp_path, rank, world_size) for rank in range(world_size)]
        made.extend(new)
        return new

    yield make
    for rank in made:
        rank.end()


def until(holds):
    end = time.monotonic() + LONG
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_rank_that_hangs_is_ended_and_its_stack_is_shown(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", HANGING, str(tmp_path)], capture_output=True, text=True, timeout=120, env=ENVIRONMENT
    )
    assert done.returncode == -signal.SIGKILL
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("watch:")]
    assert "rank 0 (process" in line
    assert "hangs while waiting for the data of step 7" in line
    assert "network" not in line  # there is nobody else
    assert '"<string>", line 9' in done.stderr  # where it sleeps
    until(lambda: not os.path.exists(f"/proc/{int(done.stdout)}"))


def test_a_rank_that_dies_while_its_watcher_starts_costs_nobody_else_anything(ranks):
    """The watcher's parent is then another process, here this one."""
    struck = []
    before = signal.signal(signal.SIGUSR2, lambda *_: struck.append(1))
    try:
        (rank,) = ranks(1)
        rank.process.kill()
        rank.process.wait()
        said = rank.wait()
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert not struck
    assert "rank 0" in said
    assert "died while taking step 3" in said
    assert "hangs" not in said


def test_one_that_moved_on_in_the_last_moment_leaves_no_word_behind(ranks):
    late, other = ranks(2)
    other.say(limit=1e9)
    until(late.report.exists)
    late.say(number=2, limit=1e9)
    until(lambda: not late.report.exists())
    assert late.alive()
    other.process.kill()
    other.process.wait()
    assert "rank 1" in other.wait()
    assert "died while" in other.said()
    assert not late.said()


def test_a_run_that_is_suspended_waits_but_a_single_stopped_rank_does_not(ranks):
    both = ranks(2)
    for rank in both:
        rank.process.send_signal(signal.SIGSTOP)
    time.sleep(3 * BOUND + watcher.GRACE_SECONDS)
    assert all(rank.alive() and not rank.report.exists() for rank in both)
    both[0].process.send_signal(signal.SIGCONT)
    said = both[0].wait() + both[1].wait()
    assert said.count("watch:") == 1
    assert "rank 1" in said
    assert "stopped by a signal" in said
    assert [rank.process.wait(LONG) for rank in both] == [-signal.SIGKILL, -signal.SIGKILL]


def test_a_rank_that_hangs_in_closing_is_ended(ranks):
    (rank,) = ranks(1)
    rank.say(state=watcher.ORDERLY)
    said = rank.wait()
    assert said.count("watch:") == 1
    assert "does not end" in said
    assert not rank.report.exists()
    assert not rank.alive() or rank.process.wait(LONG)


def test_one_that_lost_the_others_is_not_to_blame_where_another_died(ranks):
    lost, dead = ranks(2)
    for rank in (lost, dead):
        rank.say(limit=1e9)
    lost.say(state=watcher.LOST)
    until(lost.report.exists)
    dead.process.kill()
    dead.process.wait()
    assert "rank 1" in dead.wait()
    lost.say(closed=1)
    assert not lost.wait()


def test_one_that_fails_is_told_and_may_live_on_without_its_watcher(ranks):
    (rank,) = ranks(1)
    rank.say(state=watcher.FAILED, closed=1)
    assert "rank 0" in rank.wait()
    assert "failed while taking step 3" in rank.said()
    assert rank.alive()


@pytest.mark.parametrize(
    ("error", "state", "said"),
    [
        (UserError("a"), watcher.ORDERLY, ""),
        (PeerFailedError(2), watcher.ORDERLY, ""),
        (
            RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer"),
            watcher.LOST,
            "lost the other ranks",
        ),
        (RuntimeError("shapes differ"), watcher.FAILED, "failed"),
    ],
)
def test_closing_leaves_no_process_no_bound_and_nothing_unsaid(tmp_path, monkeypatch, capfd, error, state, said):
    """A launcher, and the container that it lives in, may end as soon as the rank has left."""
    bounds = []
    monkeypatch.setattr(watch, "set_collective_timeout", bounds.append)
    found = Watch(tmp_path, {**LIMITS, "step": 5.0})
    found.started()
    found.enter("step", 1)
    found.enter("validation", 1)
    found.note_failure(error)
    assert watcher.Seen.read(found._memory).state == state
    found.close()
    assert found._process.returncode is not None
    words = capfd.readouterr().err
    assert words.endswith(f" {said} while validating after step 1\n") if said else not words
    assert bounds[1] == timedelta(seconds=35)
    assert bounds[2] > timedelta(days=365)  # no bound is not thirty minutes
    assert bounds[-1] == COLLECTIVE_TIMEOUT


@pytest.mark.parametrize("missing", ["as on other systems", "as a container forbids it"])
def test_without_process_handles_time_outs_alone_hold(tmp_path, monkeypatch, missing):
    def forbidden(_):
        raise PermissionError(errno.EPERM, "no")

    bounds = []
    monkeypatch.setattr(watch, "set_collective_timeout", bounds.append)
    if missing == "as on other systems":
        monkeypatch.delattr(os, "pidfd_open")
    else:
        monkeypatch.setattr(os, "pidfd_open", forbidden)
    found = Watch(tmp_path, {**LIMITS, "step": 5.0})
    found.started()
    found.enter("step", 1)
    found.note_failure(RuntimeError("shapes differ"))
    found.close()
    assert not found.is_watched
    assert timedelta(seconds=35) in bounds
    assert bounds[-1] == COLLECTIVE_TIMEOUT
