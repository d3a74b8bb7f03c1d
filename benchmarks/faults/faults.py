"""Strike a training of two ranks with every fault in every place, and write down what came of it.

    python -m benchmarks.faults.faults [--only WORD ...] [--moments 100] [--output runs/faults] [--results FOLDER]

Each case ends by itself, goes on with `--resume auto`, and has the losses of the run that nothing struck. What is done stays done;
results are written once no case is missing, with the commits that the cases ran on.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from benchmarks.faults.disks import full_disk, may_mount, read_only_disk
from benchmarks.faults.injection import KINDS, NAN, PLACES, Fault
from benchmarks.faults.runs import BOUND_SECONDS, STRUCK, WORDS, Material, Outcome, embedded_material, origin
from benchmarks.faults.shard_server import ShardServer
from benchmarks.steps import commit
from mtllm_ds import atomic
from mtllm_ds.checkpoint.store import checkpoint_folders
from mtllm_ds.command_line import Parser, natural_int, run_and_exit
from mtllm_ds.preflight.resume import find_checkpoint

Case = Callable[[], Outcome]
_ANSWERS = 9
"""Blocks that a shard server gives before it dies, of about 15 in a run: each of four lanes reads one in two or three steps."""


def cases(material: Material, num_moments: int) -> dict[str, Case]:
    """Every case by name."""
    found: dict[str, Case] = {}
    for place in PLACES:
        for rank in (0, 1) if place == "save" else (1,):  # in a save one rank writes, the others gather
            for kind in KINDS:
                found[f"{kind}, {place}, rank {rank}"] = lambda k=kind, p=place, r=rank: material.strike(k, p, r)  # type: ignore[misc]
    found["SIGUSR1, step, rank 1"] = lambda: material.strike("SIGUSR1", "step", 1)
    for logged, log_every in (("logged", 1), ("not logged", 2)):
        name = f"{NAN} in a step that is {logged}, rank 1"
        found[name] = lambda n=name, e=log_every: material.strike(NAN, "step", 1, f"run.log_every={e}", name=n)  # type: ignore[misc]
    found["a shard server dies and comes back"] = lambda: _server_back(material)
    found["a shard server dies"] = lambda: _server_away(material)
    found["a reader process is killed"] = lambda: _reader_killed(material)
    found["a slow rank"] = lambda: _slow(material)
    found["the newest checkpoint is damaged"] = lambda: _damaged(material)
    found["1, 2, 3 and 1 ranks"] = lambda: _other_ranks(material)
    if may_mount():
        found |= {"full disk": lambda: full_disk(material), "read-only disk": lambda: read_only_disk(material)}
    draw = random.Random(0)
    for moment in range(num_moments):
        name, share = f"SIGKILL at moment {moment} of a save", draw.random()
        found[name] = lambda n=name, s=share: material.strike("SIGKILL", "save", 0, name=n, share_of_save=s)  # type: ignore[misc]
    return found


def _reader_killed(material: Material) -> Outcome:
    name = "a reader process is killed"
    fault = Fault("a reader is killed", "step", 1, STRUCK["step"], material.fresh(name) / "struck")
    ranks = material.start(name, "data.num_workers=1", fault=fault)
    statuses = ranks.wait(300)
    ranks.kill()
    line = next((line for line in ranks.said.splitlines() if "a reader process died" in line), "")
    mistakes = [] if line and statuses == [2, 2] else [f"{statuses}: {ranks.said[-600:]}"]
    return Outcome(name, 0.0, statuses, line, 2, mistakes + material.finish(name), commit())


_AT_ONCE = ["data.remote.cache_bytes=0", "data.remote.first_wait_seconds=0.2", "data.remote.attempts=8"]


def _server_back(material: Material) -> Outcome:
    """A second later, while the ranks still ask."""
    name = "a shard server dies and comes back"
    material.fresh(name)
    server = ShardServer(material.train)
    server.start(dies_at_answer=_ANSWERS)
    revival = server.start_after_death(seconds=1.0)
    try:
        mistakes = material.finish(name, f"data.train={server.url}", *_AT_ONCE)
        revival.join(BOUND_SECONDS)
    finally:
        server.close()
    mistakes += ["it never died"] if revival.is_alive() else []
    return Outcome(name, 0.0, [0, 0], "", 6, mistakes, commit())


def _server_away(material: Material) -> Outcome:
    """Until the run has ended; then it goes on."""
    name = "a shard server dies"
    material.fresh(name)
    server = ShardServer(material.train)
    server.start(dies_at_answer=_ANSWERS)
    more = [f"data.train={server.url}", "data.on_error=skip", "data.max_skipped_share=1", *_AT_ONCE]
    try:
        ranks = material.start(name, *more)
        statuses = ranks.wait(300)
        ranks.kill()
        line = next((line for line in ranks.said.splitlines() if line.startswith("error: data set")), "")
        mistakes = [] if line and statuses == [2, 2] else [f"{statuses}: {ranks.said[-600:]}"]
        mistakes += [] if server.is_dead else ["it never died"]
        server.start()
        newest, _, _ = find_checkpoint(material.run(name) / "checkpoints", "auto")
        saved = 0 if newest is None else newest.step
        return Outcome(name, 0.0, statuses, line, saved, mistakes + material.finish(name, *more), commit())
    finally:
        server.close()


def _slow(material: Material) -> Outcome:
    name = "a slow rank"
    fault = Fault("slow", "step", 1, 1, material.fresh(name) / "struck", often=True)
    ranks = material.start(name, fault=fault)
    statuses = ranks.wait(300)
    ranks.kill()
    mistakes = material.differences(name) if statuses == [0, 0] else [f"{statuses}: {ranks.said[-600:]}"]
    return Outcome(name, 0.0, statuses, "", 6, mistakes, commit())


def _damaged(material: Material) -> Outcome:
    name = "the newest checkpoint is damaged"
    material.fresh(name)
    mistakes = material.finish(name)
    newest = list(checkpoint_folders(material.run(name) / "checkpoints").values())[-1] / "moments.safetensors"
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    mistakes += material.finish(name)
    said = (material.folder / name / "log.txt").read_text(encoding="utf-8")
    line = next((line for line in said.splitlines() if "passed over" in line), "")
    return Outcome(name, 0.0, [0, 0], line, 6, mistakes + ([] if line else ["nothing was said"]), commit())


def _other_ranks(material: Material) -> Outcome:
    name, mistakes, statuses = "1, 2, 3 and 1 ranks", [], []
    folder = material.fresh(name)
    for number, world_size in enumerate((1, 2, 3)):
        fault = Fault("SIGTERM", "step", world_size - 1, 1 + number, folder / "struck")
        ranks = material.start(name, world_size=world_size, fault=fault)
        statuses = ranks.wait(300)
        ranks.kill()
        mistakes += [] if statuses == [85] * world_size else [f"{world_size} ranks: {statuses}: {ranks.said[-600:]}"]
    mistakes += material.finish(name, world_size=1)
    return Outcome(name, 0.0, statuses, "", 6, mistakes, commit())


def write_results(folder: Path, outcomes: dict[str, Outcome], root: Path) -> None:
    """`summary.json` (figures), `table.md` and `provenance.json`; paths in it begin below `root`."""
    folder.mkdir(parents=True, exist_ok=True)
    good = [one for one in outcomes.values() if not one.mistakes]
    moments = [one for name, one in outcomes.items() if "at moment" in name]
    atomic.write_figures(
        folder / "summary.json",
        {
            "cases": len(outcomes),
            "cases_as_promised": len(good),
            "slowest_end_seconds": round(max(one.seconds for one in outcomes.values()), 1),
            "bound_seconds": BOUND_SECONDS,
            "random_moments": len(moments),
            "random_moments_within_the_save": sum(WORDS["save"] in one.said for one in moments),
            **{f"seconds/{name}": round(one.seconds, 1) for name, one in outcomes.items() if "at moment" not in name},
        },
    )
    rows = ["| case | ended after | statuses | as promised | newest whole | said |", "|---|---|---|---|---|---|"]
    for name, one in outcomes.items():
        kept = "yes" if not one.mistakes else "; ".join(one.mistakes).replace("|", "/").replace("\n", " ")[:300]
        said = one.said.replace("|", "/").replace(f"{root}/", "").removeprefix("watch: ")
        rows.append(f"| {name} | {one.seconds:.1f} s | {one.statuses} | {kept} | {one.saved} | {said} |")
    atomic.write_text(folder / "table.md", "\n".join(rows) + "\n")
    commits = dict(Counter(one.commit for one in outcomes.values()))
    atomic.write_json(folder / "provenance.json", {**origin(), "cases_by_commit": commits})


def main() -> int:
    """Run the cases that are not done."""
    parser = Parser(prog="python -m benchmarks.faults.faults", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--output", type=Path, default=Path("runs/faults"), help="folder of the runs (default %(default)s)"
    )
    parser.add_argument(
        "--results", type=Path, default=Path("benchmarks/results/cpu/faults"), help="(default %(default)s)"
    )
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD", help="cases whose name holds one of these")
    parser.add_argument("--moments", type=natural_int, default=100, help="of a save, at which a rank is killed")
    options: argparse.Namespace = parser.parse_args()
    console, material = Console(), embedded_material(options.output.absolute())
    assert material.truth
    outcomes: dict[str, Outcome] = {}
    wanted = cases(material, options.moments)
    for name, case in wanted.items():
        place = options.output / "outcomes" / f"{name}.json"
        if place.exists():
            outcomes[name] = Outcome(**json.loads(place.read_text(encoding="utf-8")))
        elif not options.only or any(word in name for word in options.only):
            outcomes[name] = case()
            atomic.write_json(place, asdict(outcomes[name]))
            one = outcomes[name]
            told = f"{name}: {'as promised' if not one.mistakes else one.mistakes} ({one.seconds:.1f} s) {one.said}"
            console.print(told, highlight=False, markup=False, soft_wrap=True)
    bad = [name for name, one in outcomes.items() if one.mistakes]
    console.print(f"{len(outcomes) - len(bad)} of {len(outcomes)} as promised")
    if missing := len(wanted) - len(outcomes):
        console.print(f"{missing} of {len(wanted)} cases are missing: no results are written")
    else:
        write_results(options.results, outcomes, material.folder)
        console.print(f"results: {options.results / 'table.md'}", highlight=False)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    run_and_exit(main)
