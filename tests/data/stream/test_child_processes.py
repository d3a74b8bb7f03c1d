"""Readers and workers never outlive the process that started them."""

import os
import signal
import subprocess
import sys
import time

PROGRAM = """
import sys
from mtllm_ds.config.data import OrderSettings
from mtllm_ds.data.stream.stream import TrainStream
steps = iter(TrainStream(sys.argv[1], OrderSettings(lanes=4), num_workers=2))
next(steps)
print("reading", flush=True)
import time; time.sleep(600)
"""


def test_readers_end_with_a_killed_trainer(dataset):
    from tests.data.writing.test_workers import children_of

    process = subprocess.Popen([sys.executable, "-c", PROGRAM, dataset.storage.root], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "reading\n"
    readers = children_of(process.pid)
    assert len(readers) >= 2
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 20
    while any(os.path.exists(f"/proc/{reader}") for reader in readers) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not [reader for reader in readers if os.path.exists(f"/proc/{reader}")]
