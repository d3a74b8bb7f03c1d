"""The generative benchmark: an English chat model answers prompts in other languages.

    python -m benchmarks.generative.generative --budget cpu --text FOLDER
    python -m benchmarks.generative.generative --budget cpu --text FOLDER --dry-run     # the plan with seconds

Every step is a command that a user could type; it has a folder below --output with its log, and is skipped when it is done, so
a killed run goes on by the same command. `--minutes` ends early: a training saves where it is; `--only` takes some steps first.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from benchmarks.generative.budgets import BUDGETS
from benchmarks.generative.plan import Plan
from benchmarks.step_options import add_step_options, print_report
from benchmarks.steps import Steps, chosen_steps, describe, require_same
from mtllm_ds.command_line import Parser, quiet_libraries, run_and_exit


def parse() -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--budget", choices=list(BUDGETS), default="cpu")
    add("--text", type=Path, default=Path("assets/text"), help="folder of `make help-text`, or assets/text")
    add(
        "--models", type=Path, default=Path("runs/public"), help="folder of `make public-models`; written where missing"
    )
    add("--parallel", action="store_true", help="half of the training prompts are human translations, not English")
    add_step_options(parser, "generative", precision="bf16")
    return parser.parse_args()


def main() -> int:
    options = parse()
    console = Console()
    budget = BUDGETS[options.budget]
    name = budget.name + ("-parallel" if options.parallel else "")
    root = options.output or Path("runs/generative") / name
    plan = Plan(root, budget, options.text, options.models, options.precision, options.parallel).build()
    environment = {
        "OMP_NUM_THREADS": str(plan.num_threads), "DS_ACCELERATOR": options.device, "TOKENIZERS_PARALLELISM": "false",
    }  # fmt: skip
    steps = Steps(root, 1, environment, console)
    chosen = chosen_steps(plan.steps, options.only)
    if options.dry_run:
        console.print(describe(chosen, steps.is_done, 1), highlight=False, markup=False)
        return 0
    settings = {
        "text": str(options.text), "precision": options.precision, "parallel": options.parallel, "device": options.device,
    }  # fmt: skip
    require_same(root / "settings.json", {"budget": asdict(budget), **settings})
    steps.run(chosen, 60 * (options.minutes or float("inf")), ends_there=True)
    left = [step for step in plan.steps if not steps.is_done(step)]
    if left:
        console.print(f"{len(left)} steps are left, start again to go on", highlight=False)
        return 0
    from benchmarks.generative.report import write_generative_report

    default = root / "report" if budget.name == "smoke" else Path("benchmarks/results/generative") / name
    folder = options.results or default
    verdict = write_generative_report(plan, folder)
    print_report(console, folder, verdict.line)
    return 0


if __name__ == "__main__":
    quiet_libraries()
    run_and_exit(main)
