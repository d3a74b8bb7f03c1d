"""The balanced benchmark: from parallel text to `report.html` with one verdict line.

    python -m benchmarks.balanced.balanced --budget cpu --text FOLDER
    python -m benchmarks.balanced.balanced --budget cpu --text FOLDER --dry-run     # the plan with seconds

Every step is a command that a user could type; it has a folder below --output with its log, and is skipped when it is done, so
a killed run goes on by the same command. `--minutes` ends early: a training saves where it is; `--only` takes some steps first.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace
from pathlib import Path

from rich.console import Console

from benchmarks.balanced.budgets import BUDGETS
from benchmarks.balanced.plan import Plan
from benchmarks.balanced.students import Place
from benchmarks.parallel_folder import require_languages
from benchmarks.step_options import add_step_options, print_report
from benchmarks.steps import Steps, chosen_steps, describe, require_same
from mtllm_ds.command_line import Parser, positive_int, quiet_libraries, run_and_exit


def parse() -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--budget", choices=list(BUDGETS), default="cpu")
    add(
        "--text", type=Path, default=Path("assets/text"), help="folder of CODE.tsv.xz (English, a tab, the translation)"
    )
    add("--jobs", type=positive_int, help="steps at a time (default: the budget's)")
    add_step_options(parser, "balanced", precision="fp32")
    return parser.parse_args()


def main() -> int:
    options = parse()
    console = Console()
    budget = BUDGETS[options.budget]
    root = options.output or Path("runs/balanced") / budget.name
    plan = Plan(Place(root, options.device, options.precision), budget, options.text).build()
    num_jobs = options.jobs or budget.num_jobs
    environment = {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": options.device, "TOKENIZERS_PARALLELISM": "false"}
    steps = Steps(root, num_jobs, environment, console)
    chosen = chosen_steps(plan.steps, options.only)
    if options.dry_run:
        console.print(describe(chosen, steps.is_done, num_jobs), highlight=False, markup=False)
        return 0
    require_languages(options.text, budget.languages, budget.name)
    # How long a part of a run lasts does not bind the next one.
    settings = {"text": str(options.text), "precision": options.precision, "device": options.device}
    require_same(root / "settings.json", {"budget": asdict(replace(budget, minutes=None)), **settings})
    steps.run(chosen, 60 * (options.minutes or budget.minutes or float("inf")), ends_there=True)
    left = [step for step in plan.steps if not steps.is_done(step)]
    if left:
        console.print(f"{len(left)} steps are left, start again to go on", highlight=False)
    if not all(step.optional for step in left):
        return 0
    from benchmarks.balanced.report import write_balanced_report

    default = root / "report" if budget.name == "smoke" else Path("benchmarks/results/balanced") / budget.name
    folder = options.results or default
    verdict = write_balanced_report(plan, folder)
    print_report(console, folder, verdict.line)
    return 0


if __name__ == "__main__":
    quiet_libraries()
    run_and_exit(main)
