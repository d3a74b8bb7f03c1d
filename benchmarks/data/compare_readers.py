"""How fast samples come from our shards and from four other formats: same tokens, same window of shuffling, interleaved rounds.

Each measurement is a fresh process on one core without workers. `samples` counts the two arrays of ids of each sample as they come,
`batches` pads every 64 of them into int64 tensors with the same code. Files are in the page cache.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from benchmarks.data.readers import READERS, Ours, Sample, _import_streaming, all_samples

SEED = 1
BATCH = 64
SECONDS = 4.0
"""How long a rate is measured."""


def write_formats(shards: Path, work: Path) -> dict[str, Path]:
    """Folder of each reader, written unless it is there."""
    folders = {name: shards if reader is Ours else work / name for name, reader in READERS.items()}
    for name, folder in folders.items():
        if not folder.exists():
            temporary = folder.with_name(f".{name}")
            temporary.mkdir()
            READERS[name].write(all_samples(shards), temporary)
            temporary.rename(folder)
    return folders


def measure(name: str, folder: Path, skip: int) -> dict[str, float]:
    """Figures of one reader in this process."""
    reader = READERS[name]
    for module in reader.modules:
        importlib.import_module(module)
    if name == "mosaicml-streaming":
        _import_streaming()
    figures = {}
    started = time.perf_counter()
    samples = reader.open(folder, SEED, 0)
    list(islice(samples, BATCH))
    figures["first_batch_seconds"] = time.perf_counter() - started
    figures |= _rate(samples, "samples")
    figures |= _rate(_batches(reader.open(folder, SEED, 0)), "batches")
    started = time.perf_counter()
    list(islice(reader.open(folder, SEED, skip), BATCH))
    figures["resume_seconds"] = time.perf_counter() - started
    return figures


def _rate(items: Iterator, kind: str) -> dict[str, float]:
    """Tokens a second of wall time and a second of CPU time (all threads)."""
    tokens = 0
    started, used = time.perf_counter(), _cpu_seconds()
    while time.perf_counter() - started < SECONDS:
        read = list(islice(items, 2048 if kind == "samples" else 32))
        if not read:  # a whole epoch went by sooner
            break
        tokens += (
            sum(len(encoder_ids) + len(llm_ids) for encoder_ids, llm_ids in read) if kind == "samples" else sum(read)
        )
    seconds, cpu = time.perf_counter() - started, _cpu_seconds() - used
    return {f"{kind}_tokens_per_second": tokens / seconds, f"{kind}_tokens_per_cpu_second": tokens / cpu}


def _batches(samples: Iterator[Sample]) -> Iterator[int]:
    """Pads batches; yields their number of tokens."""
    from mtllm_ds.data.packing import pad_rows

    while group := list(islice(samples, BATCH)):
        for side in (0, 1):
            pad_rows([sample[side] for sample in group], 0)
        yield sum(len(encoder_ids) + len(llm_ids) for encoder_ids, llm_ids in group)


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def compare(shards: Path, work: Path, rounds: int) -> list[dict[str, float | str]]:
    """A row a reader and round."""
    from mtllm_ds.data.manifest import Manifest

    folders = write_formats(shards, work)
    skip = int(Manifest.load(shards).num_samples * 0.9)
    Ours.save_position(shards, SEED, skip)
    rows: list[dict[str, float | str]] = []
    for number in range(rounds):
        for name, folder in folders.items():
            command = [sys.executable, "-m", "benchmarks.data.compare_readers", name, str(folder), str(skip)]
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            output = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
            size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            rows.append({"reader": name, "round": number, "disk_bytes": size, **json.loads(output.splitlines()[-1])})
    return rows


def summarize(rows: list[dict[str, float | str]]) -> dict[str, float]:
    """Median over the rounds of each figure of each reader."""
    figures = {}
    for name in READERS:
        own = [row for row in rows if row["reader"] == name]
        for figure in own[0].keys() - {"reader", "round"}:
            figures[f"{name}/{figure}"] = statistics.median(float(row[figure]) for row in own)
    for name in READERS.keys() - {Ours.name}:
        for kind in ("samples", "batches"):
            ours, theirs = (figures[f"{n}/{kind}_tokens_per_cpu_second"] for n in (Ours.name, name))
            figures[f"ratio/{kind}_per_cpu_second_over_{name}"] = ours / theirs
    return dict(sorted(figures.items()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("reader", choices=READERS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("skip", type=int)
    given = parser.parse_args()
    print(json.dumps(measure(given.reader, given.folder, given.skip)))
