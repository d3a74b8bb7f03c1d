"""How fast samples come from our shards and from four other formats: same tokens, same window of shuffling, interleaved rounds.

Each measurement is a fresh process on one core without workers. `samples` counts the two arrays of ids of each sample as they come,
`batches` pads every 64 of them into int64 tensors with the same code, `resume` is the time to the first 64 after 90% of an epoch.
Files are in the page cache.
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

from benchmarks.data.readers import OTHERS, READERS, Ours, Sample, _import_streaming, all_samples

SEED = 1
BATCH = 64
KINDS = ("samples", "batches", "resume")
SECONDS = 4.0
"""How long a rate is measured."""


def write_formats(shards: Path, work: Path) -> dict[str, Path]:
    """Folder of each reader, written unless it is there."""
    folders = {name: shards if reader is Ours else work / name for name, reader in READERS.items()}
    for name, reader in OTHERS.items():
        folder = folders[name]
        if not folder.exists():
            temporary = folder.with_name(f".{name}")
            temporary.mkdir()
            reader.write(all_samples(shards), temporary)
            temporary.rename(folder)
    return folders


def measure(kind: str, name: str, folder: Path, skip: int) -> dict[str, float]:
    """Figures of one kind of one reader in this process, which no other measurement has used: some leave threads behind."""
    reader = READERS[name]
    for module in reader.modules:
        importlib.import_module(module)
    if name == "mosaicml-streaming":
        _import_streaming()
    started = time.perf_counter()
    samples = reader.open(folder, SEED, skip if kind == "resume" else 0)
    list(islice(samples, BATCH))
    seconds = time.perf_counter() - started
    if kind == "resume":
        return {"resume_seconds": seconds}
    if kind == "batches":
        return _rate(_batches(samples), kind)
    return {"first_batch_seconds": seconds} | _rate(samples, kind)


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
    from mtllm_ds.data.stream.packing import pad_rows

    while group := list(islice(samples, BATCH)):
        for side in (0, 1):
            pad_rows([sample[side] for sample in group], 0)
        yield sum(len(encoder_ids) + len(llm_ids) for encoder_ids, llm_ids in group)


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def compare(shards: Path, work: Path, rounds: int) -> list[dict[str, float | str]]:
    """A row a reader and round."""
    from mtllm_ds.data.shards.manifest import Manifest

    folders = write_formats(shards, work)
    skip = int(Manifest.load(shards).num_samples * 0.9)
    Ours.save_position(shards, SEED, skip)
    rows: list[dict[str, float | str]] = []
    for number in range(rounds):
        for name, folder in folders.items():
            size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            row: dict[str, float | str] = {"reader": name, "round": number, "disk_bytes": size}
            for kind in KINDS:
                row |= _in_new_process(kind, name, folder, skip)
            rows.append(row)
    return rows


def _in_new_process(kind: str, name: str, folder: Path, skip: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.data.compare_readers", kind, name, str(folder), str(skip)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    output = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    return json.loads(output.splitlines()[-1])


def summarize(rows: list[dict[str, float | str]]) -> dict[str, float]:
    """Each figure of each reader: the median over the rounds, of rates by wall clock the best (other work may disturb a round)."""
    figures = {}
    for name in READERS:
        own = [row for row in rows if row["reader"] == name]
        for figure in own[0].keys() - {"reader", "round"}:
            choose = max if figure.endswith("tokens_per_second") else statistics.median
            figures[f"{name}/{figure}"] = choose(float(row[figure]) for row in own)
    for name in OTHERS:
        for kind in ("samples", "batches"):
            ours, theirs = (figures[f"{n}/{kind}_tokens_per_cpu_second"] for n in (Ours.name, name))
            figures[f"ratio/{kind}_per_cpu_second_over_{name}"] = ours / theirs
    return dict(sorted(figures.items()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("reader", choices=READERS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("skip", type=int)
    given = parser.parse_args()
    print(json.dumps(measure(given.kind, given.reader, given.folder, given.skip)))
