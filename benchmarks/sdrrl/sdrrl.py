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

from benchmarks.parallel_folder import require_languages
from benchmarks.sdrrl.budgets import BUDGETS, Budget
from benchmarks.sdrrl.plan import Plan
from benchmarks.sdrrl.rows import SDRRL, UNTOUCHED
from benchmarks.step_options import add_step_options, print_report, take_steps
from benchmarks.steps import Step
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
    budget = BUDGETS[options.budget]
    root = options.output or Path("runs/sdrrl_benchmark") / budget.name
    plan = Plan(root, budget, options.text, options.models, options.device, options.precision).build()
    left = take_steps(
        options, root, plan.steps, asdict(budget), num_jobs=budget.num_jobs, num_threads=plan.num_threads,
        check=lambda: require_languages(options.text, budget.languages, budget.name),
    )  # fmt: skip
    if left is None:
        return 0
    first = budget.seeds[0]
    if {plan.scored(UNTOUCHED, first), plan.scored(SDRRL, first)} & {step.name for step in left}:
        return 0
    from benchmarks.sdrrl.report import write_sdrrl_report

    folder = options.results or default_results(root, budget, left)
    verdict = write_sdrrl_report(plan, folder)
    print_report(folder, verdict.line)
    return 0


def default_results(root: Path, budget: Budget, left: Sequence[Step]) -> Path:
    """Below the run's folder until all that the result needs is done; an optional step that is left, or fails, is told in it."""
    is_whole = all(step.optional for step in left)
    return Path("benchmarks/results/sdrrl") / budget.name if is_whole and budget.name != "smoke" else root / "report"


if __name__ == "__main__":
    quiet_libraries()
    run_and_exit(main)
