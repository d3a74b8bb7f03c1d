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

from benchmarks.generative.budgets import BUDGETS
from benchmarks.generative.plan import Plan
from benchmarks.step_options import add_step_options, print_report, take_steps
from mtllm_ds.command_line import Parser, quiet_libraries, run_and_exit
from mtllm_ds.errors import UserError


def parse() -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--budget", choices=list(BUDGETS), default="cpu")
    add("--text", type=Path, default=Path("assets/text"), help="folder of `make help-text`, or assets/text")
    add(
        "--models", type=Path, default=Path("runs/public"), help="folder of `make public-models`; written where missing"
    )
    add("--descriptions", type=Path, help="folder of `make ddtp`, which budgets but smoke ask for")
    add("--parallel", action="store_true", help="half of the training prompts are human translations, not English")
    add_step_options(parser, "generative", precision="bf16")
    return parser.parse_args()


def main() -> int:
    options = parse()
    budget = BUDGETS[options.budget]
    if budget.num_descriptions and options.descriptions is None:
        raise UserError(f"--descriptions: --budget={budget.name} asks for them; name the folder of `make ddtp`")
    if not budget.num_descriptions and options.descriptions is not None:
        raise UserError(f"--descriptions={options.descriptions}: --budget={budget.name} reads none; leave it out")
    name = budget.name + ("-parallel" if options.parallel else "")
    root = options.output or Path("runs/generative") / name
    plan = Plan(
        root,
        budget,
        options.text,
        options.models,
        options.device,
        options.precision,
        options.descriptions,
        options.parallel,
    ).build()
    left = take_steps(
        options, root, plan.steps, asdict(budget), num_jobs=1, num_threads=plan.num_threads, more={"parallel": options.parallel}
    )  # fmt: skip
    if left is None or left:
        return 0
    from benchmarks.generative.report import write_generative_report

    default = root / "report" if budget.name == "smoke" else Path("benchmarks/results/generative") / name
    folder = options.results or default
    verdict = write_generative_report(plan, folder)
    print_report(folder, verdict.line)
    return 0


if __name__ == "__main__":
    quiet_libraries()
    run_and_exit(main)
