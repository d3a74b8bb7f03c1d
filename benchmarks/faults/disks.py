"""Disks that fill up or turn read-only below a run's checkpoints: real file systems in memory, for who may mount them."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable

from benchmarks.faults.runs import BOUND_SECONDS, SAVED, Material, Outcome
from benchmarks.steps import commit

_WAIT_SECONDS = 300.0


def may_mount() -> bool:
    """Whether this process may mount a file system."""
    probe = ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return subprocess.run(probe, capture_output=True).returncode == 0


def full_disk(material: Material) -> Outcome:
    """Room for one checkpoint and a half, until the run has complained."""
    truth = material.run("truth") / "checkpoints" / f"step_{SAVED:08d}"
    bytes_of_one = sum(path.stat().st_size for path in truth.iterdir())
    return _on_disk(material, "full disk", f"size={bytes_of_one * 3 // 2}", "remount,size=4g")


def read_only_disk(material: Material) -> Outcome:
    """Nothing can be written from the beginning until the run has complained."""
    return _on_disk(material, "read-only disk", "ro", "remount,rw")


def _on_disk(material: Material, name: str, options: str, mended: str) -> Outcome:
    folder = material.run(name) / "checkpoints"
    while folder.is_mount():  # of a case that was itself killed
        subprocess.run(["umount", str(folder)], check=True)
    material.fresh(name)
    folder.mkdir(parents=True)
    _mount(["-t", "tmpfs", "-o", options, "tmpfs", str(folder)])
    try:
        ranks = material.start(name)
        complained = _until(lambda: "NOT SAVED" in ranks.said)
        began = time.monotonic()
        _mount(["-o", mended, str(folder)])
        statuses = ranks.wait(BOUND_SECONDS * 3)
        ranks.kill()
        mistakes = [] if complained else ["nothing was said"]
        mistakes += [] if statuses == [0, 0] else [f"ended with {statuses}: {ranks.said[-600:]}"]
        mistakes += material.differences(name)
        steps = sorted(int(path.name[5:]) for path in folder.glob("step_*"))
        line = next((line for line in ranks.said.splitlines() if "NOT SAVED" in line), "")
        saved = steps[-1] if steps else 0
        return Outcome(name, time.monotonic() - began, statuses, line, saved, mistakes, commit())
    finally:
        subprocess.run(["umount", str(folder)], check=False)


def _mount(arguments: list[str]) -> None:
    subprocess.run(["mount", *arguments], check=True)


def _until(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + _WAIT_SECONDS
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False
