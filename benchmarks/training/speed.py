"""Seconds of a training step: ours beside plain two passes, a script for Hugging Face's Trainer, and plain PyTorch on one rank.

    python -m benchmarks.training.speed --size cpu
    python -m benchmarks.training.speed --size cpu --dry-run     # the plan with seconds
    REHEARSE=1 python -m benchmarks.training.speed --size gpu_even

Its parts are steps with a folder below --output; what is done is skipped, so that a killed run goes on by the same command.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from benchmarks.kernels.rehearsal import rehearsing
from benchmarks.kernels.results import folder as results_folder
from benchmarks.steps import Step, Steps, chosen_steps, describe, python, require_same
from benchmarks.training.sizes import SIZES, size_named
from mtllm_ds.command_line import Parser, quiet_libraries, run_and_exit

MATERIAL, ROUNDS, PARTS = "material", "rounds", "parts"


def parse() -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--size", choices=list(SIZES), default="cpu")
    add("--output", type=Path, help="folder of the steps (default runs/training/SIZE)")
    add(
        "--results", type=Path, help="folder of the figures (default benchmarks/results/DEVICE/training; smoke: OUTPUT)"
    )
    add("--only", nargs="+", default=[], metavar="STEP", help="run only these steps, and what they need")
    add("--dry-run", action="store_true", help="print the plan and exit")
    return parser.parse_args()


def main() -> int:
    options = parse()
    size, console = size_named(options.size), Console()
    root = options.output or Path("runs/training") / size.name
    material = root / MATERIAL / "files"
    steps = [
        Step(
            MATERIAL,
            [python("-m", "benchmarks.training.material", size.name, material, root.parent / "models")],
            seconds=40,
        ),
        Step(ROUNDS, [python("-m", "benchmarks.training.rounds", size.name, material)], (MATERIAL,), size.seconds + 60),
        Step(PARTS, [python("-m", "benchmarks.training.parts", size.name, material)], (MATERIAL,), 40),
    ]
    environment = {"OMP_NUM_THREADS": str(size.num_threads), "DS_ACCELERATOR": size.device, "HF_HUB_OFFLINE": "1"}
    runner = Steps(root, 1, environment, console)
    chosen = chosen_steps(steps, options.only)
    if options.dry_run:
        console.print(describe(chosen, runner.is_done, 1), highlight=False, markup=False)
        return 0
    require_same(root / "settings.json", {"budget": asdict(size)})
    runner.run(chosen)
    if all(runner.is_done(step) for step in steps):
        from benchmarks.training.report import write_report

        is_trial = size.name == "smoke" or rehearsing()
        results = options.results or (root if is_trial else results_folder(benchmark="training"))
        print(write_report(size, material, results))
    return 0


if __name__ == "__main__":
    quiet_libraries()
    run_and_exit(main)
