"""Child processes that end when they should: readers with their parent, programs of others with all that they started."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import suppress

_LOOK_EVERY_SECONDS = 1.0


def die_with(parent: int) -> None:
    """Called in a child: it ends within a second or two of its parent, also where it waits in a pipe that siblings keep open."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK_EVERY_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def run_alone(command: Sequence[str], given: bytes, time_out_seconds: float) -> subprocess.CompletedProcess[bytes]:
    """Run a program of others on its standard input, and keep what it writes; where it takes too long, or we are interrupted, it
    ends with everything that it started.

    Raises:
        subprocess.TimeoutExpired: after so many seconds.
        OSError: it cannot be started.
    """
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, process_group=0
    ) as process:
        try:
            output, errors = process.communicate(given, time_out_seconds)
        except BaseException:  # what ends us does not reach a group of its own
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(command, process.returncode, output, errors)
