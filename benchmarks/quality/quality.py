"""The quality benchmark: from base models to `report.html` with one verdict line.

    python -m benchmarks.quality.quality --budget cpu --data FOLDER --mt assets/mt
    python -m benchmarks.quality.quality --budget cpu --data FOLDER --mt assets/mt --dry-run     # the plan with seconds

Every step is a command that a user could type; it has a folder below --output with its log, and is skipped when it is done, so
a killed run goes on by the same command. `--minutes` ends early, between two steps; `--only` takes some steps first.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict
from pathlib import Path

import yaml
from rich.console import Console

from benchmarks.quality.claim.backbone import BackbonePlan
from benchmarks.quality.claim.backbone_steps import BACKBONES
from benchmarks.quality.claim.budgets import BUDGETS, budget_of, place_of
from benchmarks.quality.claim.data import TASKS, known_languages
from benchmarks.quality.claim.plan import Plan
from benchmarks.quality.claim.variants import PARALLEL, VARIANTS
from benchmarks.quality.text.frozen import MANIFESTS
from benchmarks.steps import Steps, chosen_steps, describe, require_same
from mtllm_ds.command_line import Parser, positive_int, quiet_libraries, run_and_exit
from mtllm_ds.errors import UserError


def parse() -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--budget", choices=list(BUDGETS), default="cpu")
    add("--data", type=Path, required=True, help="folder of the task's text (make help-text, make ddtp)")
    add("--task", choices=list(MANIFESTS), default="lohelp_modules")
    add("--mt", default="assets/mt", help="MT model (default %(default)s)")
    add(
        "--mt-ladder",
        nargs="*",
        default=[],
        metavar="FOLDER",
        help="earlier checkpoints of the MT model, the earliest first",
    )
    add("--backbones", nargs="+", choices=list(BACKBONES), default=["minilm"], help="the first is the headline")
    add(
        "--headline",
        choices=list(VARIANTS),
        help="variant that all seeds run (default: the best on development languages)",
    )
    add("--output", type=Path, help="folder of the steps (default runs/quality/BUDGET, or BUDGET-ddtp_topics)")
    add(
        "--results",
        type=Path,
        help="folder of the reports (default benchmarks/results/quality/BUDGET or BUDGET-ddtp_topics; smoke: OUTPUT/report)",
    )
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--precision", choices=("fp32", "bf16"), default="fp32", help="of training")
    add(
        "--only",
        nargs="+",
        default=[],
        metavar="STEP",
        help="run only these steps, by name or folder, and what they need",
    )
    add("--jobs", type=positive_int, help="steps at a time (default: the budget's)")
    add("--minutes", type=float, default=float("inf"), help="begin no new step after so many")
    add("--any-data", action="store_true", help="go on where the data is not the frozen one; the report says so")
    add("--dry-run", action="store_true", help="print the plan and exit")
    return parser.parse_args()


def main() -> int:
    options = parse()
    console = Console()
    budget = budget_of(options.budget, options.task)
    if budget.parallel_texts is None and options.headline and VARIANTS[options.headline].stage1_shards == PARALLEL:
        raise UserError(
            f"--headline {options.headline}: budget {budget.name} has no parallel text; take --budget parallel"
        )
    task = yaml.safe_load((TASKS / f"{options.task}.yaml").read_text(encoding="utf-8"))
    languages = known_languages(options.mt, task["languages"])
    place = place_of(budget.name, options.task)
    root = options.output or Path("runs/quality") / place
    plan = Plan(
        root=root, budget=budget, text=options.data, mt=options.mt, languages=languages,
        development=[code for code in task["development_languages"] if code in languages],
        headline=options.headline, choice=root / options.backbones[0] / "choice" / "choice.json",
        task_name=options.task, device=options.device, precision=options.precision, any_data=options.any_data,
    )  # fmt: skip
    plan.add_shared()
    for backbone in options.backbones:
        is_headline = backbone == options.backbones[0]
        BackbonePlan(plan, backbone).build(options.mt_ladder if is_headline else [])
    num_jobs = options.jobs or budget.num_jobs
    threads = max(1, len(os.sched_getaffinity(0)) // num_jobs)
    environment = {"OMP_NUM_THREADS": str(threads), "DS_ACCELERATOR": options.device, "TOKENIZERS_PARALLELISM": "false"}
    steps = Steps(root, num_jobs, environment, console)
    settings = {
        "budget": asdict(budget), "mt": options.mt, "mt_ladder": options.mt_ladder, "data": str(options.data),
        "task": options.task,
        "backbone": options.backbones[0], "headline": options.headline, "precision": options.precision, "device": options.device,
    }  # fmt: skip
    chosen = chosen_steps(plan.steps, options.only)
    if options.dry_run:
        console.print(describe(chosen, steps.is_done, num_jobs), highlight=False, markup=False)
        return 0
    require_same(root / "settings.json", settings)
    steps.run(chosen, 60 * options.minutes)
    left = [step for step in plan.steps if not steps.is_done(step)]
    if left:
        console.print(f"{len(left)} steps are left, start again to go on", highlight=False)
    if not all(step.optional for step in left):
        return 0
    from benchmarks.quality.claim.report import write_quality_report

    default = root / "report" if budget.name == "smoke" else Path("benchmarks/results/quality") / place
    for backbone in options.backbones:
        folder = (options.results or default) / backbone
        verdict = write_quality_report(plan, backbone, options.mt_ladder, [step.name for step in left], folder, console)
        console.print(f"{backbone}: {verdict.line}\nreport: {folder / 'report.html'}", highlight=False, markup=False)
    return 0


if __name__ == "__main__":
    quiet_libraries()
    run_and_exit(main)
