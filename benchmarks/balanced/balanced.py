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

from benchmarks.balanced.budgets import BUDGETS
from benchmarks.balanced.plan import Plan
from benchmarks.balanced.students import Place
from benchmarks.parallel_folder import require_languages
from benchmarks.step_options import add_step_options, print_report, take_steps
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
    budget = BUDGETS[options.budget]
    root = options.output or Path("runs/balanced") / budget.name
    plan = Plan(Place(root, options.device, options.precision), budget, options.text).build()
    left = take_steps(
        options, root, plan.steps, asdict(replace(budget, minutes=None)),  # how long a part lasts does not bind the next one
        num_jobs=options.jobs or budget.num_jobs, minutes=budget.minutes,
        check=lambda: require_languages(options.text, budget.languages, budget.name),
    )  # fmt: skip
    if left is None or not all(step.optional for step in left):
        return 0
    from benchmarks.balanced.report import write_balanced_report

    default = root / "report" if budget.name == "smoke" else Path("benchmarks/results/balanced") / budget.name
    folder = options.results or default
    verdict = write_balanced_report(plan, folder)
    print_report(folder, verdict.line)
    return 0


if __name__ == "__main__":
    quiet_libraries()
    run_and_exit(main)
