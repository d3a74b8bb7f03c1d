"""Is this cluster fit for a run? Looked at by all ranks together, in a minute, without a model."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from rich.console import Console
from rich.table import Table

from mtllm_ds.checkpoint.store import git_commit
from mtllm_ds.cluster.agree import from_main, own_rank, wait_for_all
from mtllm_ds.cluster.gather import from_all_ranks
from mtllm_ds.cluster.launch import Cluster
from mtllm_ds.errors import PeerFailedError, UserError

_PACKAGES = ("mtllm-ds", "torch", "deepspeed", "transformers", "peft", "triton", "safetensors", "numpy", "tokenizers")
_GIB = 2**30
_CLOCK_SECONDS = 2.0
"""Most that clocks may differ: reports of watchers are put in order by them."""
_SLOWEST = 1.3
"""Times the median, beyond which a device is called slow."""
_ROUNDS = 5
Value = TypeVar("Value")


@dataclass(frozen=True)
class Finding:
    """One row of the table."""

    what: str
    found: str
    mend: str = ""
    """What to do; empty where all is well."""


def examine(cluster: Cluster, folder: str, free_gib: float, mib: int) -> list[Finding]:
    """All findings, the same on every rank; called by all ranks alike."""
    places = from_all_ranks(f"rank {cluster.rank} on {socket.gethostname()}")
    versions, there, unknown = _of_ranks(_own_versions, places, "versions", "mend what is installed there")
    rooms, with_room, no_room = _of_ranks(lambda: _own_room(folder), places, "disks", "mount them again")
    found = [
        *([_versions(versions, there)] if versions else []), *unknown,
        *(_disks(rooms, with_room, folder, free_gib) if rooms else []), *no_room,
        _shared_folder(cluster, Path(folder), places),
        _clocks(places),
    ]  # fmt: skip
    values, at_work, broken = _of_ranks(
        lambda: _own_device(cluster.device), places, "devices", "end what else runs there, or drain the node"
    )
    # What moves between ranks would fail on the broken one alone, and leave the others in a collective.
    links = [] if broken else _links(cluster, mib)
    return [*found, *(_devices(values, at_work) if values else []), *broken, *links]


def print_table(findings: Sequence[Finding], cluster: Cluster, console: Console) -> None:
    """The findings as a table."""
    table = Table(title=f"{cluster.world_size} ranks on {cluster.device.type}")
    for column in ("", "what", "found"):
        table.add_column(column)
    for one in findings:
        table.add_row("[red]bad[/]" if one.mend else "ok", one.what, one.found + (f"; {one.mend}" if one.mend else ""))
    console.print(table)


def require_health(findings: Sequence[Finding], cluster: Cluster) -> None:
    """Raises `UserError` on the main rank, and leaves on the others, where something is wrong."""
    bad = [one for one in findings if one.mend]
    if not bad:
        return
    if not cluster.is_main:
        raise PeerFailedError(UserError.exit_status)
    more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
    raise UserError(f"doctor: {bad[0].what}: {bad[0].found}; {bad[0].mend}{more}")


def differing(values: Sequence[Mapping[str, str]], places: Sequence[str]) -> list[str]:
    """What some ranks have otherwise than most: `torch 2.13.0, but 2.12.0 on rank 3 on node-2`."""
    found = []
    for name in dict.fromkeys(key for one in values for key in one):
        of_ranks = [one.get(name, "none") for one in values]
        usual = Counter(of_ranks).most_common(1)[0][0]
        odd = [(value, place) for value, place in zip(of_ranks, places, strict=True) if value != usual]
        if odd:
            more = f" and {len(odd) - 1} others" if len(odd) > 1 else ""
            found.append(f"{name} {usual}, but {odd[0][0]} on {odd[0][1]}{more}")
    return found


def slow_ones(seconds: Sequence[float], places: Sequence[str]) -> list[str]:
    """Ranks that took much longer than the median for the same work."""
    median = statistics.median(seconds)
    return [
        f"{place} takes {own / median:.1f} times the median"
        for own, place in zip(seconds, places, strict=True)
        if own > _SLOWEST * median
    ]


def _of_ranks(
    look: Callable[[], Value], places: Sequence[str], what: str, mend: str
) -> tuple[list[Value], list[str], list[Finding]]:
    """What ranks see of themselves, where those are, and a finding for each rank that cannot look."""
    value, failure = None, ""
    try:
        value = look()
    except (OSError, RuntimeError) as error:  # a stale mount; a device that is full or broken
        failure = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        # A device may be too broken to tell the others.
        print(f"doctor: {what}: {places[own_rank()]}: {failure}", file=sys.stderr, flush=True)
    answers = list(zip(from_all_ranks((value, failure)), places, strict=True))
    seen = [(own, place) for (own, why), place in answers if not why]
    failed = [Finding(what, f"{place}: {why}", mend) for (_, why), place in answers if why]
    return [own for own, _ in seen], [place for _, place in seen], failed  # type: ignore[misc]


def _own_versions() -> dict[str, str]:
    found = {"Python": platform.python_version(), "code": git_commit()[:12] or "no checkout"}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    if torch.cuda.is_available():
        found |= {"CUDA": str(torch.version.cuda), "NCCL": ".".join(map(str, torch.cuda.nccl.version()))}
        found["driver"] = _nvidia_smi("driver_version")
    return found


def _versions(values: list[dict[str, str]], places: list[str]) -> Finding:
    shown = ", ".join(f"{name} {value}" for name, value in values[0].items() if value != "none")
    odd = differing(values, places)
    return Finding("versions", "; ".join(odd) or shown, "install the same on all nodes" if odd else "")


def _own_room(folder: str) -> dict[str, float]:
    """Free bytes of the run folder's disk, of the node's own, and of shared memory, where there is some."""
    path = Path(folder).absolute()
    there = next(place for place in (path, *path.parents) if place.exists())
    places = {"runs": there, "local": Path(tempfile.gettempdir()), "shared memory": Path("/dev/shm")}
    return {name: float(shutil.disk_usage(place).free) for name, place in places.items() if place.exists()}


def _disks(values: list[dict[str, float]], places: list[str], folder: str, free_gib: float) -> list[Finding]:
    needs = {"runs": free_gib, "local": 1.0, "shared memory": 0.06}
    names = {"runs": f"disk of {folder}", "local": f"disk of {tempfile.gettempdir()}", "shared memory": "/dev/shm"}
    found = []
    for name, least in needs.items():
        free, place = min(
            (one[name] / _GIB, place)
            for one, place in zip(values, places, strict=True)
            if name in one or name == "runs"
        )
        mend = f"less than {least:g} GiB on {place}: make room" if free < least else ""
        found.append(Finding(names[name], f"{free:,.1f} GiB free at least", mend))
    return found


def _shared_folder(cluster: Cluster, folder: Path, places: list[str]) -> Finding:
    """Does every rank see what another has written there?"""
    name = from_main(lambda: f".doctor-{uuid.uuid4().hex}", cluster.device)
    own, error = folder / f"{name}-{cluster.rank}", ""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        own.write_text(name, encoding="utf-8")
    except OSError as failure:
        error = str(failure.strerror or failure)
    wait_for_all()
    files = [folder / f"{name}-{rank}" for rank in range(cluster.world_size)]
    missing = [] if error else [rank for rank, file in enumerate(files) if not _is_seen(file)]
    answers = from_all_ranks((error, missing))
    with contextlib.suppress(OSError):
        own.unlink()
    for (failed, unseen), place in zip(answers, places, strict=True):
        what = f"folder {folder}"
        if failed:
            return Finding(what, f"{place} cannot write there: {failed}", "choose another, or mend its rights")
        if unseen:
            found = f"{place} does not see what {places[unseen[0]]} writes"
            return Finding(what, found, "put runs where all machines see the same files")
    return Finding(f"folder {folder}", "all ranks write and see the same files")


def _is_seen(file: Path) -> bool:
    try:
        return file.exists()
    except OSError:  # a stale mount
        return False


def _clocks(places: list[str]) -> Finding:
    wait_for_all()
    times = from_all_ranks(time.time())
    spread = max(times) - min(times)
    late = places[times.index(min(times))]
    mend = f"{late} is behind: let all nodes take the time from one server" if spread > _CLOCK_SECONDS else ""
    return Finding("clocks", f"within {spread:.2f} s", mend)


def _own_device(device: torch.device) -> dict[str, Any]:
    """The same product on each rank: its time and its bits; of a GPU also its name, memory and errors."""
    generator = torch.Generator().manual_seed(0)
    size, dtype = (4096, torch.bfloat16) if device.type == "cuda" else (512, torch.float32)
    left, right = (torch.randn(size, size, generator=generator).to(device, dtype) for _ in range(2))
    seconds = min(_seconds(lambda: left @ right, device) for _ in range(_ROUNDS))
    digest = float((left @ right).double().sum())
    found = {"seconds": seconds, "flops": 2 * size**3 / seconds, "digest": repr(digest), "name": platform.machine()}
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        errors = _nvidia_smi("ecc.errors.uncorrected.volatile.total", device.index)
        found |= {"name": torch.cuda.get_device_name(device), "used": (total - free) / total, "errors": errors}
    return found


def _devices(values: list[dict[str, Any]], places: list[str]) -> list[Finding]:
    odd = differing([{"device": one["name"], "sum of a product": one["digest"]} for one in values], places)
    bad = [
        f"{place}: {one['errors']} uncorrected memory errors"
        for one, place in zip(values, places, strict=True)
        if one.get("errors", "0").isdigit() and int(one.get("errors", "0")) > 0
    ]
    full = [
        f"{place}: {one['used']:.0%} of its memory is taken"
        for one, place in zip(values, places, strict=True)
        if one.get("used", 0.0) > 0.1
    ]
    slow = slow_ones([one["seconds"] for one in values], places)
    speed = f"{values[0]['name']}, {statistics.median(one['flops'] for one in values) / 1e12:.2f} TFLOP/s a rank"
    return [
        Finding(
            "devices", "; ".join([*odd, *bad]) or "alike, and of one result", "drain the node" if odd or bad else ""
        ),
        Finding("memory of devices", "; ".join(full) or "free", "end what else runs there" if full else ""),
        # On CPUs ranks share cores with whatever runs: told, and no reason to refuse.
        Finding(
            "speed of devices", "; ".join([speed, *slow]), "drain the node" if slow and "used" in values[0] else ""
        ),
    ]


def _links(cluster: Cluster, mib: int) -> list[Finding]:
    """Bus bandwidth as NCCL's tests define it: what each link carries, whatever the number of ranks."""
    world = cluster.world_size
    if world == 1:
        return [Finding("links", "one rank has none")]
    own = torch.ones(mib * 2**20 // 4 // world * world, device=cluster.device)
    whole = torch.empty_like(own)
    part = own[: len(own) // world].clone()
    num_bytes = own.numel() * own.element_size()
    kinds: dict[str, tuple[Callable[[], Any], float]] = {
        "all-reduce": (lambda: dist.all_reduce(own.clone()), 2 * (world - 1) / world),
        "all-gather": (lambda: dist.all_gather(list(whole.split(len(part))), part), (world - 1) / world),
    }
    found = []
    for name, (work, share) in kinds.items():
        work()
        seconds = max(from_all_ranks(statistics.median(_seconds(work, cluster.device) for _ in range(_ROUNDS))))
        found.append(
            Finding(name, f"{share * num_bytes / seconds / 1e9:.2f} GB/s per link, {mib} MiB in {seconds * 1e3:.1f} ms")
        )
    return found


def _seconds(work: Callable[[], Any], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def _nvidia_smi(query: str, index: int | None = None) -> str:
    """One figure of the driver's tool; `unknown` where it is not there."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    chosen = [] if index is None else ["-i", visible[index] if index < len(visible) and visible[index] else str(index)]
    command = ["nvidia-smi", *chosen, f"--query-gpu={query}", "--format=csv,noheader"]
    try:
        lines = subprocess.run(command, capture_output=True, text=True, timeout=30).stdout.split("\n")
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return lines[0].strip() or "unknown"
