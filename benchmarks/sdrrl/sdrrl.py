"""The SDRRL benchmark: an English chat model learns its own answers in other languages.

    python -m benchmarks.sdrrl.sdrrl --budget cpu --text FOLDER
    python -m benchmarks.sdrrl.sdrrl --budget cpu --text FOLDER --dry-run     # the plan with seconds

Every step is a command that a user could type; it has a folder below --output with its log, and is skipped when it is done, so
a killed run goes on by the same command. `--minutes` ends early: a training saves where it is; `--only` takes some steps first.
There is a report as soon as the untouched model and one of SDRRL are scored; it says what is missing.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from benchmarks.parallel_folder import require_languages
from benchmarks.sdrrl.budgets import BUDGETS, Budget
from benchmarks.sdrrl.plan import Plan
from benchmarks.sdrrl.rows import SDRRL, UNTOUCHED
from benchmarks.step_options import add_step_options, print_report
from benchmarks.steps import Step, Steps, chosen_steps, describe, require_same
from mtllm_ds.command_line import Parser, quiet_libraries, run_and_exit


def parse() -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--budget", choices=list(BUDGETS), default="cpu")
    add(
        "--text", type=Path, default=Path("assets/text"), help="folder of CODE.tsv.xz (English, a tab, the translation)"
    )
    add(
        "--models", type=Path, default=Path("runs/public"), help="folder of `make public-models`; written where missing"
    )
    add_step_options(parser, "sdrrl", precision="bf16")
    return parser.parse_args()


def main() -> int:
    options = parse()
    console = Console()
    budget = BUDGETS[options.budget]
    root = options.output or Path("runs/sdrrl_benchmark") / budget.name
    plan = Plan(root, budget, options.text, options.models, options.precision).build()
    environment = {
        "OMP_NUM_THREADS": str(plan.num_threads), "DS_ACCELERATOR": options.device, "TOKENIZERS_PARALLELISM": "false",
    }  # fmt: skip
    steps = Steps(root, budget.num_jobs, environment, console)
    chosen = chosen_steps(plan.steps, options.only)
    if options.dry_run:
        console.print(describe(chosen, steps.is_done, budget.num_jobs), highlight=False, markup=False)
        return 0
    require_languages(options.text, budget.languages, budget.name)
    settings = {"text": str(options.text), "precision": options.precision, "device": options.device}
    require_same(root / "settings.json", {"budget": asdict(budget), **settings})
    steps.run(chosen, 60 * (options.minutes or float("inf")), ends_there=True)
    left = [step for step in plan.steps if not steps.is_done(step)]
    if left:
        console.print(f"{len(left)} steps are left, start again to go on", highlight=False)
    first = budget.seeds[0]
    if {plan.scored(UNTOUCHED, first), plan.scored(SDRRL, first)} & {step.name for step in left}:
        return 0
    from benchmarks.sdrrl.report import write_sdrrl_report

    folder = options.results or default_results(root, budget, left)
    verdict = write_sdrrl_report(plan, folder)
    print_report(console, folder, verdict.line)
    return 0


def default_results(root: Path, budget: Budget, left: Sequence[Step]) -> Path:
    """Below the run's folder until all that the result needs is done; an optional step that is left, or fails, is told in it."""
    is_whole = all(step.optional for step in left)
    return Path("benchmarks/results/sdrrl") / budget.name if is_whole and budget.name != "smoke" else root / "report"


if __name__ == "__main__":
    quiet_libraries()
    run_and_exit(main)
