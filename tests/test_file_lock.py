"""One process holds a lock; where the file system knows none, work goes on without."""

import errno
import fcntl
import subprocess
import sys

import pytest

from mtllm_ds.file_lock import HeldError, lock_file

HOLD = """
import sys
from pathlib import Path
from mtllm_ds.file_lock import lock_file
lock = lock_file(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_another_process_that_holds_it_is_told_until_it_ends(tmp_path):
    path = tmp_path / "lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(HeldError):
            lock_file(path)
    finally:
        holder.kill()
        holder.communicate()
    lock_file(path).close()


def failing(number):
    def lockf(handle, flags):
        raise OSError(number, errno.errorcode[number])

    return lockf


@pytest.mark.parametrize(
    "number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL], ids=errno.errorcode.get
)
def test_a_file_system_without_locks_stops_nobody(tmp_path, monkeypatch, number):
    """As Lustre mounted without flock, and NFS without a lock daemon, answer."""
    monkeypatch.setattr(fcntl, "lockf", failing(number))
    with lock_file(tmp_path / "lock") as first, lock_file(tmp_path / "lock") as second:
        assert not first.closed
        assert not second.closed


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EACCES], ids=errno.errorcode.get)
def test_both_answers_that_mean_held(tmp_path, monkeypatch, number):
    monkeypatch.setattr(fcntl, "lockf", failing(number))
    with pytest.raises(HeldError):
        lock_file(tmp_path / "lock")


def test_what_is_no_answer_about_locks_is_not_taken_for_one(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "lockf", failing(errno.EIO))
    with pytest.raises(OSError, match="EIO"):
        lock_file(tmp_path / "lock")
