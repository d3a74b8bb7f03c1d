"""Where figures come from: device, versions, commit, command, date."""

import datetime
import importlib.metadata
import platform
import subprocess
import sys
from pathlib import Path

import torch

PACKAGES = (
    "torch", "triton", "liger-kernel", "cut-cross-entropy", "transformers", "peft", "deepspeed", "accelerate", "flash-attn",
)  # fmt: skip


def device_name() -> str:
    """The GPU's name, or the processor's."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.processor()


def _command() -> str:
    """As one would type it from the repository's root."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    program = f"python -m {spec.name}" if spec else Path(sys.argv[0]).name
    return " ".join((program, *sys.argv[1:]))


def _commit() -> str:
    """Of the working tree; "unknown" where there is no git, or only a copy of the files."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip() if done.returncode == 0 else "unknown"


def provenance(device: str | None = None) -> dict[str, object]:
    """All of it as strings and numbers, for a JSON file beside the figures."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "device": device or device_name(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": versions,
        "commit": _commit(),
        "command": _command(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
