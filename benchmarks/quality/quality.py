"""The quality benchmark: from base models to `report.html` with one verdict line.

    python -m benchmarks.quality.quality --budget cpu --data FOLDER --mt assets/mt
    python -m benchmarks.quality.quality --budget cpu --data FOLDER --mt assets/mt --dry-run     # the plan with seconds

Every step is a command that a user could type; it has a folder below --output with its log, and is skipped when it is done, so
a killed run goes on by the same command. `--minutes` ends early, between two steps; `--only` takes some steps first.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from rich.console import Console

from benchmarks.quality.claim.backbone import BackbonePlan
from benchmarks.quality.claim.backbone_steps import BACKBONES
from benchmarks.quality.claim.budgets import BUDGETS, Budget, budget_of, place_of
from benchmarks.quality.claim.data import TASKS, known_languages
from benchmarks.quality.claim.plan import Plan
from benchmarks.quality.claim.public_budgets import BY_BACKBONE, PUBLIC, public_budget
from benchmarks.quality.claim.public_plan import PublicBackbone, PublicPlan
from benchmarks.quality.claim.variants import PARALLEL, VARIANTS
from benchmarks.quality.text.frozen import MANIFESTS
from benchmarks.steps import Steps, chosen_steps, describe, require_same
from mtllm_ds.command_line import Parser, positive_int, quiet_libraries, run_and_exit
from mtllm_ds.errors import UserError

if TYPE_CHECKING:
    from mtllm_ds.evaluation.report.parts import Verdict


def parse() -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--budget", choices=[*BUDGETS, *PUBLIC], default="cpu")
    add("--data", type=Path, required=True, help="folder of the task's text (make help-text, make ddtp)")
    add("--task", choices=list(MANIFESTS), default="lohelp_modules")
    add("--mt", help="MT model (default assets/mt), or the encoder of a public budget (default MODELS/e5-small)")
    add("--models", type=Path, default=Path("runs/public"), help="folder of public models (default %(default)s)")
    add("--more-text", type=Path, metavar="FOLDER", help="public budgets: text of the other task, for stage 1")
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
    plan, backbones = _public(options) if options.budget in PUBLIC else _on_mt_model(options)
    budget, num_jobs = plan.budget, options.jobs or plan.budget.num_jobs
    threads = max(1, len(os.sched_getaffinity(0)) // num_jobs)
    environment = {"OMP_NUM_THREADS": str(threads), "DS_ACCELERATOR": options.device, "TOKENIZERS_PARALLELISM": "false"}
    steps = Steps(plan.root, num_jobs, environment, console)
    settings = {
        "budget": budget.settings, "mt": plan.mt, "mt_ladder": options.mt_ladder, "data": str(options.data),
        "task": options.task,
        "backbone": options.backbones[0], "headline": options.headline, "precision": options.precision, "device": options.device,
    }  # fmt: skip
    chosen = chosen_steps(plan.steps, options.only)
    if options.dry_run:
        console.print(describe(chosen, steps.is_done, num_jobs), highlight=False, markup=False)
        return 0
    require_same(plan.root / "settings.json", settings)
    steps.run(chosen, 60 * options.minutes)
    left = [step for step in plan.steps if not steps.is_done(step)]
    if left:
        console.print(f"{len(left)} steps are left, start again to go on", highlight=False)
    if not all(step.optional for step in left):
        return 0
    place = place_of(budget.name, options.task)
    default = plan.root / "report" if budget.is_smoke else Path("benchmarks/results/quality") / place
    for backbone in backbones:
        folder = (options.results or default) / backbone.name
        verdict = _report(backbone, options.mt_ladder, [step.name for step in left], folder, console)
        console.print(
            f"{backbone.name}: {verdict.line}\nreport: {folder / 'report.html'}", highlight=False, markup=False
        )
    return 0


def _on_mt_model(options: argparse.Namespace) -> tuple[Plan, list[BackbonePlan]]:
    """The plan on an MT model of ours, its backbones added."""
    budget = budget_of(options.budget, options.task)
    if budget.parallel_texts is None and options.headline and VARIANTS[options.headline].stage1_shards == PARALLEL:
        raise UserError(
            f"--headline {options.headline}: budget {budget.name} has no parallel text; take --budget parallel"
        )
    if options.more_text:
        raise UserError(f"--more-text {options.more_text}: has no effect with --budget {budget.name}; remove it")
    task = yaml.safe_load((TASKS / f"{options.task}.yaml").read_text(encoding="utf-8"))
    mt = options.mt or "assets/mt"
    languages = known_languages(mt, task["languages"])
    development = [code for code in task["development_languages"] if code in languages]
    plan = Plan(**_given(options, budget), mt=mt, languages=languages, development=development)
    plan.add_shared()
    backbones = [BackbonePlan(plan, name) for name in options.backbones]
    for backbone in backbones:
        backbone.build(options.mt_ladder if backbone is backbones[0] else [])
    return plan, backbones


def _public(options: argparse.Namespace) -> tuple[PublicPlan, list[PublicBackbone]]:
    """The plan on public models; a backbone has sizes of its own, so one at a time."""
    (name, *others) = options.backbones
    if others or name not in BY_BACKBONE:
        raise UserError(
            f"--backbones {' '.join(options.backbones)}: --budget {options.budget} has sizes for one at a time; name one of "
            f"{', '.join(BY_BACKBONE)}"
        )
    if options.more_text is None:
        raise UserError("--more-text: stage 1 reads the English of both tasks; name the folder of the other one")
    if options.mt_ladder:
        raise UserError("--mt-ladder: the encoder of --budget public has no earlier checkpoints; remove it")
    if options.headline and VARIANTS[options.headline].stage1_shards == PARALLEL:
        raise UserError(f"--headline {options.headline}: --budget public trains on English alone; take another")
    if options.headline and any("centring" in change for change in VARIANTS[options.headline].stage2):
        raise UserError(
            f"--headline {options.headline}: goes by language tags, which the encoder does not have; take another"
        )
    budget = public_budget(options.budget, options.task, name)
    plan = PublicPlan(
        **_given(options, budget), mt=options.mt or str(options.models / "e5-small"), languages=list(budget.languages),
        development=list(budget.development), more_text=options.more_text,
    )  # fmt: skip
    plan.add_shared()
    backbone = PublicBackbone(plan, name)
    backbone.build([])
    return plan, [backbone]


def _given(options: argparse.Namespace, budget: Budget) -> dict[str, Any]:
    """What both kinds of plan take from the command line as it is."""
    root = options.output or Path("runs/quality") / place_of(budget.name, options.task)
    return {
        "root": root, "budget": budget, "text": options.data, "headline": options.headline,
        "choice": root / options.backbones[0] / "choice" / "choice.json", "task_name": options.task,
        "device": options.device, "precision": options.precision, "any_data": options.any_data, "models": options.models,
    }  # fmt: skip


def _report(
    backbone: BackbonePlan, ladder: Sequence[str], left: Sequence[str], folder: Path, console: Console
) -> Verdict:
    # Here, since they import torch.
    from benchmarks.quality.claim.public_report import write_public_report
    from benchmarks.quality.claim.report import write_quality_report

    if isinstance(backbone, PublicBackbone):
        return write_public_report(backbone, left, folder, console)
    return write_quality_report(backbone.plan, backbone.name, ladder, left, folder, console)


if __name__ == "__main__":
    quiet_libraries()
    run_and_exit(main)
